"""What the figures in docs/decisions were measured with still measures."""

from pathlib import Path

from tests.conftest import ROOT
from tests.servers import python


def test_isolation(project: Path) -> None:
    plugin = ("-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest")

    ended = python(
        project, *plugin, f"{ROOT}/benchmarks/isolation.py", ROUNDS="1", TEST_POSTGRES="embedded"
    )

    assert ended.returncode == 0
    assert ended.stdout.count("restored_clone") == 2
