"""The question `contents`: the service is small and complete, the reference contains everything else."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REFERENCE, ROOT, SERVICE, Bake, files

MOST_LINES = 12_300

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
NAMED = re.compile(r"(?<![\w/.-])(?:app|deploy|docs|tests)/[\w/.-]*[\w/]")


@pytest.fixture(scope="module")
def service(bake: Bake) -> Path:
    return bake()


def paths(project: Path) -> set[str]:
    return {path.relative_to(project).as_posix() for path in files(project)}


def is_reference(path: str, hook: dict[str, Any]) -> bool:
    return bool(hook["is_one_of"](path, hook["REFERENCE"]))


def test_service_is_small(service: Path) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in files(service))

    assert lines <= MOST_LINES


def test_reference_adds_the_files_that_the_hook_lists(
    bake: Bake, service: Path, hook: dict[str, Any]
) -> None:
    reference = paths(bake(contents=REFERENCE))

    assert paths(service) == {path for path in reference if not is_reference(path, hook)}
    assert {"docs/sessions.md", "docs/operations.md"} == {
        path for path in paths(service) if path.startswith("docs/")
    }


def test_every_file_that_the_hook_deletes_is_in_the_template(hook: dict[str, Any]) -> None:
    for _, _, names in hook["ASKED_FOR"]:
        assert [name for name in names if not (ROOT / SERVICE / name).exists()] == []


def test_links_and_file_names_in_the_service_are_valid(service: Path, hook: dict[str, Any]) -> None:
    in_template = re.compile(re.escape(hook["TEMPLATE"]) + r"/([^)#\s]+)")
    linked = {*in_template.findall((service / "README.md").read_text())}

    for path in files(service):
        text = path.read_text()
        if path.suffix == ".md":
            assert [link for link in LINK.findall(text) if not (path.parent / link).exists()] == []
            assert [p for p in in_template.findall(text) if not (ROOT / SERVICE / p).exists()] == []
        # A comment may name a page of the reference that the README links to.
        named = {name for name in NAMED.findall(text) if is_reference(name, hook)}
        assert named <= linked, f"{path} names files of the reference"


def test_service_imports_nothing_from_the_reference(service: Path) -> None:
    for path in service.rglob("*.py"):
        assert not re.search(r"tests\.(conformance|docs)\b", path.read_text()), path
