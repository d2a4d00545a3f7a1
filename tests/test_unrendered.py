"""The unrendered folder is a working service."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SERVICE, clean_environment

CHECKS = [
    "ruff format --check",
    "ruff check",
    "mypy",
    "lint-imports",
    pytest.param(
        'pytest --quiet -n logical --maxprocesses 4 -m "not load" --db=sqlite',
        marks=pytest.mark.full,
    ),
]


@pytest.mark.parametrize("check", CHECKS)
def test_folder_passes_as_it_stands(project: Path, template: Path, check: str) -> None:
    tools = project / ".venv" / "bin"
    environment = clean_environment() | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}

    subprocess.run(shlex.split(check), check=True, cwd=template / SERVICE, env=environment)
