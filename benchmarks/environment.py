"""Creates the measured environment: the rendered service, virtual environments, and databases.

All files are in build/bench. Later runs use the environments there again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from uv import find_uv_bin

from benchmarks.processes import OTHER_CORES, SERVER_CORES, Command, ended, started

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
INSIDE = ROOT / "benchmarks" / "inside"
USERS = 10_000

REPORTED_PACKAGES = (
    *("asyncpg", "email-validator", "fastapi", "greenlet", "httptools", "psycopg", "pydantic"),
    *("pydantic-core", "python", "sqlalchemy", "starlette", "uvicorn", "uvloop"),
)

COOKIECUTTER: Command = (sys.executable, "-m", "cookiecutter", "--no-input")

SEED = f"""
INSERT INTO users (id, name, email, version, created_at)
SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'User ' || n,
    'user-' || n || '@example.com', 1, timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second'
FROM generate_series(1, {USERS}) AS n
"""


class MissingError(Exception):
    """A requirement is missing. The message is one sentence for the user."""


class Service(NamedTuple):
    folder: Path
    python: Path


@cache
def interpreter() -> str:
    """Return the Python for all environments: BENCH_PYTHON, a working 3.13, or this interpreter."""
    named = os.environ.get("BENCH_PYTHON")
    if named:
        version = _version(named)
        if version is None:
            raise MissingError(f"BENCH_PYTHON={named} does not run: name a Python 3.11 or newer")
        return named
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = ["python3.13", *map(str, pyenv.glob("versions/3.13.*/bin/python3.13"))]
    return next((name for name in candidates if _version(name)), sys.executable)


def _version(python: str) -> str | None:
    try:
        return subprocess.run(
            [python, "-c", "import platform; print(platform.python_version())"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # for example, a shim of pyenv
        return None


def render(template: Path, target: Path) -> Path:
    """Render the template with its default answers. Return the folder of the project."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")  # JSON is YAML
        config.write_text(json.dumps({"cookiecutters_dir": folder, "replay_dir": folder}))
        subprocess.run(
            [*COOKIECUTTER, "--config-file", config, "--output-dir", target, template],
            capture_output=True,
            check=True,
            env=variables(),
        )
    return next(target.iterdir())


def environment(name: str, *packages: str, folder: Path = ROOT, key: str = "") -> Path:
    """Return the Python of an environment with these packages. A change of `key` recreates it.

    Raises:
        MissingError: it cannot be created. The message has the tool's output.
    """
    target = BUILD / "environments" / name
    stamp, contents = target / "made-of", "\n".join([interpreter(), *packages, key])
    python = target / "bin" / "python"
    if stamp.exists() and stamp.read_text() == contents:
        return python
    shutil.rmtree(target, ignore_errors=True)
    uv = find_uv_bin()
    variables = {"UV_SYSTEM_CERTS": "true"} | os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    for command in (
        [uv, "venv", "--quiet", "--python", interpreter(), str(target)],
        [uv, "pip", "install", "--quiet", "--python", str(target), *packages],
    ):
        made = subprocess.run(
            command, capture_output=True, check=False, cwd=folder, env=variables, text=True
        )
        if made.returncode:
            raise MissingError(f"cannot install {' '.join(packages)}: {_one_line(made.stderr)}")
    stamp.write_text(contents)
    return python


def service() -> Service:
    """Render the template, and install the rendered service."""
    folder = render(ROOT, BUILD / "rendered")
    key = (folder / "pyproject.toml").read_text()
    python = environment("service", "--editable", ".", "--group", "dev", folder=folder, key=key)
    return Service(folder, python)


def versions(python: Path, *more: str) -> dict[str, str]:
    """Return the versions of Python and of the relevant packages in an environment."""
    code = (
        "import importlib.metadata as m, json, platform;"
        "print(json.dumps({'python': platform.python_version()}"
        " | {d.name.lower(): d.version for d in sorted(m.distributions(), key=lambda d: d.name)}))"
    )
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code], text=True))
    return {name: version for name, version in found.items() if name in {*REPORTED_PACKAGES, *more}}


def user_id(number: int) -> str:
    """Return the id of a seeded user, from 1 to USERS."""
    return f"00000000-0000-4000-8000-{number:012x}"


def variables(**more: str) -> dict[str, str]:
    """Return a clean environment for a process, with these variables added."""
    kept = ("HOME", "LANG", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


class PostgreSQL(NamedTuple):
    """A server, and the two databases of this run."""

    version: str
    primary: str  # URLs
    analytics: str

    def variables(self) -> dict[str, str]:
        """Return the environment variables with the URLs of the databases."""
        return variables(
            DATABASE_URL=self.primary, DATABASES__ANALYTICS__DATABASE_URL=self.analytics
        )


class Sql:
    """A connection to PostgreSQL in a process of the service's environment, which has a driver."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, *statements: str) -> Any:
        """Run each statement in its own transaction. Return the rows of the last one."""
        return exchange(self._process, statements)


def exchange(process: subprocess.Popen[str], message: Any = None) -> Any:
    """Send a line of JSON to a process. Return the line of JSON that it sends back."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"no response to {str(message)[:200]!r}")
    return json.loads(line)


@contextmanager
def sql(service: Service, url: str) -> Iterator[Sql]:
    command: Command = [service.python, INSIDE / "sql.py", url]
    with ended(started(command, OTHER_CORES, env=variables(), folder=service.folder)) as process:
        yield Sql(process)


@contextmanager
def inside(
    service: Service, server: PostgreSQL, script: str, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a script in the service's environment, on the server's core."""
    command: Command = [service.python, INSIDE / script, *arguments]
    with ended(
        started(command, SERVER_CORES, env=server.variables(), folder=service.folder)
    ) as process:
        yield process


@contextmanager
def postgresql(service: Service) -> Iterator[PostgreSQL]:
    """Yield a server with two migrated, empty databases, and drop them afterwards."""
    with _server(service) as url, sql(service, url) as run:
        version = _version_of_server(run)
        stem = f"bench_{os.getpid()}"
        names = [f"{stem}_primary", f"{stem}_analytics"]
        try:
            run(*(f"CREATE DATABASE {name}" for name in names))
            urls = [urlsplit(url)._replace(path=f"/{name}").geturl() for name in names]
            server = PostgreSQL(version, *urls)
            subprocess.run(
                [service.python, "-m", "app", "migrate"],
                capture_output=True,
                check=True,
                cwd=service.folder,
                env=server.variables(),
            )
            yield server
        finally:
            with suppress(OSError, RuntimeError):  # the server may be unavailable
                run(*(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in names))


def _version_of_server(run: Sql) -> str:
    try:
        return str(run("SHOW server_version")[0][0].split()[0])
    except RuntimeError:
        raise MissingError("PostgreSQL does not respond: check BENCH_DATABASE_URL") from None


@contextmanager
def _server(service: Service) -> Iterator[str]:
    """Yield BENCH_DATABASE_URL, or the URL of a server from the service's test harness."""
    if url := os.environ.get("BENCH_DATABASE_URL"):
        yield url
        return
    keeper = started(
        [service.python, "-m", "tests.harness.keeper", "none"],
        OTHER_CORES,
        env=variables(TEST_POSTGRES="embedded"),
        folder=service.folder,
    )
    with ended(keeper):
        assert keeper.stdout
        message = json.loads(keeper.stdout.readline() or "{}")
        if "url" not in message:
            reason = message.get("error", "the keeper process of the service's tests sent nothing")
            raise MissingError(
                f"there is no PostgreSQL ({reason}): set BENCH_DATABASE_URL to the URL of a server"
            )
        yield message["url"]


def _one_line(text: str) -> str:
    """Return the output of a tool in one line, without the addresses and paths of this machine."""
    return re.sub(r"(\w+:/)?/\S+", "...", " ".join(text.split()))[:300] or "no output"
