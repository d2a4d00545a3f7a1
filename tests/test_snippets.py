"""The snippets of the service's pages pass ruff and mypy. The tests of the reference run them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import python

EXTRACT = """
import sys
from pathlib import Path
from tests.docs.snippets import SNIPPETS

for snippet in SNIPPETS:
    Path(sys.argv[1], f"{snippet.page.stem}_{snippet.line}.py").write_text(snippet.source)
"""


@pytest.fixture(scope="module")
def project(reference: Path) -> Path:
    return reference


@pytest.fixture(scope="module")
def extracted(project: Path) -> Iterator[Path]:
    """A folder of the project with a file for each snippet, named after the page and the line."""
    folder = project / "tests" / "extracted"
    folder.mkdir()
    assert python(project, "-c", EXTRACT, str(folder)).returncode == 0
    yield folder
    shutil.rmtree(folder)


def test_snippets_are_linted(project: Path, extracted: Path) -> None:
    prints = "tests/extracted/*:T201"
    options = ["check", "--extend-per-file-ignores", prints, str(extracted)]

    assert python(project, "-m", "ruff", *options).returncode == 0


def test_snippets_are_typed(project: Path, extracted: Path) -> None:
    assert python(project, "-m", "mypy", str(extracted)).returncode == 0
