"""The template and the unrendered folder of the service pass their checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SERVICE, clean_environment

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


@pytest.mark.parametrize("check", OF_THE_SERVICE)
def test_unrendered_service_passes(project: Path, template: Path, check: str) -> None:
    run(check, template / SERVICE, project / ".venv/bin")


@pytest.mark.full
def test_unrendered_service_passes_its_tests_on_sqlite(project: Path, template: Path) -> None:
    """With Python 3.11 and two databases. test_generated.py runs them on PostgreSQL."""
    tests = ["-m", "pytest", "--quiet", "-n2", "-m", "not load", "--db=sqlite"]
    run(["python", *tests], template / SERVICE, project / ".venv/bin")


def run(command: str | list[str], folder: Path, tools: Path) -> None:
    name, *arguments = command.split() if isinstance(command, str) else command
    environment = clean_environment() | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([tools / name, *arguments], check=True, cwd=folder, env=environment)
