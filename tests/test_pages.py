"""The generated parts of the README are up to date, and links and file names in all pages are valid."""

import re
from pathlib import Path

import pytest

from tests import drawing, recording
from tests.conftest import ROOT, SERVICE, Bake, tracked_files

PAGES = [path for path in tracked_files() if path.suffix == ".md"]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def test_first_session_in_the_readme_is_up_to_date(template: Path) -> None:
    assert recording.SHOWN.findall(recording.README.read_text()) == [recording.record(template)]


def test_tree_in_the_readme_is_up_to_date(bake: Bake) -> None:
    assert drawing.SHOWN.findall(drawing.README.read_text()) == [drawing.draw(bake())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)

    for link in LINK.findall(prose):
        assert (page.parent / link).resolve().exists(), link


def test_python_examples_are_only_in_pages_that_are_run() -> None:
    """The reference runs the snippets of the service's README and of docs/."""
    run = {ROOT / SERVICE / "README.md", *(ROOT / SERVICE / "docs").glob("*.md")}

    assert {page for page in PAGES if "```python" in page.read_text()} <= run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:app|benchmarks|deploy|docs|hooks|tests)/[\w./-]+)`", page.read_text())

    for name in named:
        assert (ROOT / name).exists() or (ROOT / SERVICE / name).exists(), name


def test_no_file_names_the_host_of_a_package_registry() -> None:
    """Some machines use a mirror instead."""
    hosts = re.compile(r"pypi[.]org|pythonhosted[.]org|npmjs[.]org")

    assert not [path for path in tracked_files() if hosts.search(path.read_text(errors="replace"))]
