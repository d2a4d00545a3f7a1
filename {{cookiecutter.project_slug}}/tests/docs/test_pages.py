"""Links, settings and test files that the pages name exist."""

import re
from pathlib import Path

from tests.docs.snippets import PAGES, ROOT

LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the file and the anchor of each link in a page; the anchor is "" if there is none."""
    found = LINK.findall(without_code(page))
    return [((page.parent / path).resolve() if path else page, anchor) for path, anchor in found]


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_linked_files_and_anchors_exist() -> None:
    for page in PAGES:
        for path, anchor in links(page):
            assert path.exists(), f"{page.name}: {path}"
            assert not anchor or anchor in anchors(path), f"{page.name}: {path}#{anchor}"


def test_settings_named_in_operations_exist() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    example = (ROOT / ".env.example").read_text()
    found = re.findall(r"\b[A-Z]+_[A-Z_]+[A-Z]\b", page)
    named = {name.removeprefix("DATABASES__PRIMARY__") for name in found if name != "DATABASES__"}
    settings = {name.split("__")[-1] for name in re.findall(r"^([A-Z_]+)=", example, re.M)}

    assert {"SHUTDOWN_DELAY"} < {*named}
    others = {"MAX_BODY_SIZE"} | {name for name in named if name.startswith("OTEL_")}
    assert {*named} - others <= settings


def test_table_of_promises_links_to_each_conformance_test() -> None:
    tests = {*(ROOT / "tests" / "conformance").resolve().glob("test_*.py")}

    assert tests
    assert tests <= {path for path, _ in links(ROOT / "docs" / "sessions.md")}
