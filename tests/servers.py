"""Helpers for tests that run the rendered service: PostgreSQL servers, ports, the project's Python, its pytest."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import clean_environment


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def wait_until_served(port: int, running: subprocess.Popen[bytes]) -> None:
    """Wait until the process accepts connections on the port."""

    def listens() -> bool:
        assert running.poll() is None, "the service has exited"
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, seconds=60)


NO_DOCKER = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}

RUN_SQL = """
import asyncio, json, sys
from sqlalchemy import make_url
from tests.harness.connections import connect

async def run(url, *statements):
    connection = await connect(make_url(url))
    for statement in statements:
        rows = await connection.fetch(statement)
    await connection.close()
    print(json.dumps([list(row) for row in rows]))

asyncio.run(run(*sys.argv[1:]))
"""

FORK_SERVER = Path(__file__).with_name("fork_server.py")


def _has_docker() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


HAS_DOCKER = _has_docker()

needs_docker = pytest.mark.skipif(
    not HAS_DOCKER and "REQUIRE_DOCKER" not in os.environ,
    reason="no Docker engine responds on this machine",
)

needs_pgbouncer = pytest.mark.skipif(
    shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None
    and "REQUIRE_PGBOUNCER" not in os.environ,
    reason="there is no PgBouncer on this machine",
)


def on_docker() -> dict[str, str]:
    """Return the variables that select Docker, with POSTGRES_IMAGE if it is set."""
    image = {name: os.environ[name] for name in ("POSTGRES_IMAGE",) if name in os.environ}
    return {"TEST_POSTGRES": "docker"} | image


def python(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the project's Python in the project, print the output, and return the completed process."""
    ended = run_python(project, *arguments, folder=project, **variables)
    print(ended.stdout, ended.stderr, sep="\n")
    return ended


def run_python(
    project: Path, *arguments: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the project's Python in a folder. Return the completed process."""
    return subprocess.run(
        [project / ".venv/bin/python", *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        env=clean_environment(**variables),
        text=True,
    )


class ForkServer:
    """Runs pytest with the project's Python, each time in a new process, without a second of imports."""

    def __init__(self, project: Path) -> None:
        self._process = subprocess.Popen(
            [project / ".venv/bin/python", FORK_SERVER],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def pytest(
        self, *arguments: str, folder: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run pytest in a folder with the files of a service. Return the completed process."""
        assert self._process.stdin
        assert self._process.stdout
        output = folder.with_name(f"{folder.name}.output")
        run = {
            "folder": str(folder),
            "arguments": arguments,
            "variables": clean_environment(**variables),
            "output": str(output),
        }
        print(json.dumps(run), file=self._process.stdin, flush=True)
        code = self._process.stdout.readline()
        assert code, "the fork server has exited"
        return subprocess.CompletedProcess(arguments, int(code), output.read_text(), "")

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def fork_server(project: Path) -> Iterator[ForkServer]:
    with closing(ForkServer(project)) as server:
        yield server


def sql(project: Path, url: str, *statements: str) -> Any:
    """Run these statements. Return the rows of the last one."""
    ended = python(project, "-c", RUN_SQL, url, *statements)
    assert ended.returncode == 0
    return json.loads(ended.stdout)


@contextmanager
def external_server(project: Path, *, superuser: bool = False) -> Iterator[str]:
    """Run an external server. Yield its URL for a superuser, or for a user that may only create databases and roles."""
    keeper = subprocess.Popen(
        [project / ".venv/bin/python", "-m", "tests.harness.keeper", "none"],
        cwd=project,
        env=clean_environment(TEST_POSTGRES="embedded"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdout
    with keeper:
        message = json.loads(keeper.stdout.readline())
        assert "url" in message, message
        url: str = message["url"]
        sql(
            project,
            url,
            "CREATE ROLE creator LOGIN CREATEDB CREATEROLE PASSWORD 's%40cret'",
            "CREATE ROLE reader LOGIN PASSWORD 's%40cret'",
        )
        user = "postgres:" if superuser else "creator:s%2540cret"
        yield url.replace("postgres:@/postgres", f"{user}@/shop_test")
        keeper.communicate("done")
