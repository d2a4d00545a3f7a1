"""Runs pytest in forked processes. The service's Python runs this file: `python tests/fork_server.py`.

To start pytest takes a second or two, most of it for imports of packages. This process imports them once,
and forks for each run. It never imports the service, so that each run imports its own copy. It reads one
run per line of standard input, as JSON: the folder, the arguments, the environment variables and the file
for the output. When the run has ended, it prints the exit code.
"""

import importlib
import json
import os
import sys

import pytest

# Packages that the service and its tests import. Not the plugins of pytest: it must import them itself.
PACKAGES = """
    aiosqlite alembic.command alembic.autogenerate.api asyncpg email_validator fastapi fastapi_swagger httpx2
    pydantic_settings pythonjsonlogger.json sqlalchemy.dialects.postgresql.asyncpg sqlalchemy.dialects.sqlite.aiosqlite
    sqlalchemy.ext.asyncio sqlalchemy.orm typer uvicorn.protocols.http.httptools_impl
"""

# AnyIO has a plugin of pytest, and FastAPI imports AnyIO.
IGNORED = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")


def run(folder: str, arguments: list[str], variables: dict[str, str], output: str) -> int:
    """Run pytest in this process, which exits afterwards."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = ["pytest", *arguments]
    return int(pytest.main([*IGNORED, *arguments]))


def main() -> None:
    for package in PACKAGES.split():
        importlib.import_module(package)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.exit(run(**json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
