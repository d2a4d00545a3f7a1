"""The snippets of the service's pages are linted and typed as its code is; its own tests run them."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import clean_environment

EXTRACT = """
import sys
from pathlib import Path
from tests.docs.snippets import SNIPPETS

for snippet in SNIPPETS:
    Path(sys.argv[1], f"{snippet.page.stem}_{snippet.line}.py").write_text(snippet.source)
"""


@pytest.fixture(scope="module")
def extracted(project: Path) -> Iterator[Path]:
    """A folder of the project with a file for each snippet; it is named for the page and the line."""
    folder = project / "tests" / "extracted"
    folder.mkdir()
    run(project, "python", "-c", EXTRACT, str(folder))
    yield folder
    shutil.rmtree(folder)


def run(project: Path, tool: str, *arguments: str) -> None:
    command = [str(project / ".venv" / "bin" / tool), *arguments]
    subprocess.run(command, check=True, cwd=project, env=clean_environment())


def test_snippets_are_linted(project: Path, extracted: Path) -> None:
    prints = "tests/extracted/*:T201"

    run(project, "ruff", "check", "--extend-per-file-ignores", prints, str(extracted))


def test_snippets_are_typed(project: Path, extracted: Path) -> None:
    run(project, "mypy", str(extracted))
