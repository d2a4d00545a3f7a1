"""The template and the unrendered folder of the service pass their checks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SERVICE, clean_environment

OF_THE_TEMPLATE = [
    f"shellcheck {' '.join(str(path) for path in sorted((ROOT / '.ci').iterdir()))}",
    "zizmor --offline --strict-collection .",
    "ruff format --check",
    "ruff check",
    "mypy",
]
OF_THE_SERVICE = ["ruff format --check", "ruff check", "mypy", "lint-imports"]


@pytest.mark.parametrize("check", OF_THE_TEMPLATE)
def test_template_passes(check: str) -> None:
    run(check, ROOT, Path(sys.executable).parent)


@pytest.fixture(scope="module")
def unrendered(template: Path, folder: Path) -> Path:
    """A copy of the unrendered service, to which the tools may add caches."""
    return shutil.copytree(template / SERVICE, folder / "unrendered")


@pytest.mark.parametrize("check", OF_THE_SERVICE)
def test_unrendered_service_passes(project: Path, unrendered: Path, check: str) -> None:
    run(check, unrendered, project / ".venv/bin")


@pytest.mark.full
def test_unrendered_service_passes_its_tests_on_sqlite(project: Path, unrendered: Path) -> None:
    """test_generated.py runs them on PostgreSQL."""
    tests = ["-m", "pytest", "--quiet", "-n2", "-m", "not load", "--db=sqlite"]
    run(["python", *tests], unrendered, project / ".venv/bin")


def run(command: str | list[str], folder: Path, tools: Path) -> None:
    name, *arguments = command.split() if isinstance(command, str) else command
    environment = clean_environment() | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([tools / name, *arguments], check=True, cwd=folder, env=environment)
