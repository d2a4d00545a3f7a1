"""Runs the service, or a command of it, in a process of its own: `python -m app`."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from app import migrations
from app.core.config import variable
from tests.harness.launch import launch

ROOT = Path(__file__).parents[1]
DATABASES = migrations.databases()
VARIABLES = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}

SECONDS_TO_START = 30.0
SECONDS_TO_STOP = 30.0

# Terminates the service if the test run is killed before the test can do it.
GUARD = "import os, sys; sys.stdin.readline() or os.kill(int(sys.argv[1]), 15)"


class Serving(NamedTuple):
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def exit_code(self) -> int:
        """Wait until the process exits and return its exit code. Terminate it first."""
        return self.process.wait(SECONDS_TO_STOP)


@contextmanager
def serving(*arguments: str, variables: dict[str, str], folder: Path) -> Iterator[Serving]:
    """Run the service until the end of the block, with these environment variables.

    `folder` is the working directory: it has no .env. SHUTDOWN_DELAY is 0 unless `variables` sets it.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "served.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", str(port), *arguments],
            cwd=folder,
            env={"SHUTDOWN_DELAY": "0", **variables},
            stderr=output,
        )
    serving = Serving(f"http://127.0.0.1:{port}", process, log)
    with launch(sys.executable, "-c", GUARD, str(process.pid)) as guard:
        try:
            _wait_until_it_responds(serving)
            yield serving
        finally:
            process.terminate()
            try:
                serving.exit_code()
            finally:
                process.kill()
                guard.communicate("done\n")
                print(log.read_text())  # noqa: T201, pytest shows it if the test fails


def _wait_until_it_responds(serving: Serving) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            httpx2.get(serving.url, verify=False)  # without loading certificates each time
        except httpx2.TransportError:
            assert serving.process.poll() is None, "the service exited; its log is below"
            assert time.monotonic() < deadline, "the service does not respond; its log is below"
            time.sleep(0.05)
        else:
            return


def run(
    *arguments: str, variables: dict[str, str], folder: Path, exit_code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command until it exits, and check its exit code, unless that is None."""
    ended = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        env=variables,
        text=True,
    )
    assert exit_code in (None, ended.returncode), ended.stdout + ended.stderr
    return ended


def expected_line(database: str, what: str, variables: dict[str, str]) -> str:
    """Return the line for a database whose revisions are all pending, or have all been applied."""
    url = make_url(variables.get(variable(database), f"sqlite:///var/{database}.db"))
    script = ScriptDirectory.from_config(migrations.config(database))
    history = [step.revision for step in reversed(list(script.walk_revisions()))]
    return f"{database} ({url.set(query={})}): {len(history)} {what}: {', '.join(history)}"
