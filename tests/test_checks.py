"""The template and the unrendered folder of the service pass their checks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SERVICE, Environment, clean_environment
from tests.servers import find_python

OF_THE_TEMPLATE = [
    "shellcheck .ci/run .ci/stand-in-images",
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
def test_unrendered_service_passes_its_tests_on_sqlite(
    environment: Environment, unrendered: Path
) -> None:
    """On Python 3.13 if this machine has it. test_generated.py runs them on PostgreSQL."""
    tools = environment(find_python("3.13") or sys.executable) / "bin"
    tests = ["-m", "pytest", "--quiet", "-n2", "-m", "not load", "--db=sqlite"]
    run(["python", *tests], unrendered, tools)


def run(command: str | list[str], folder: Path, tools: Path) -> None:
    name, *arguments = command.split() if isinstance(command, str) else command
    environment = clean_environment() | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([tools / name, *arguments], check=True, cwd=folder, env=environment)
