"""Every snippet runs, and its `main` prints what its `# >` comments show."""

import logging
import re

import pytest

from tests.docs.snippets import PAGES, ROOT, SNIPPETS, Snippet

Fixtures = pytest.FixtureRequest

ANY_FENCE = re.compile(r"^\s*(?:```+|~~~+)\s*py.*$", re.IGNORECASE | re.MULTILINE)


def check(snippet: Snippet, request: Fixtures) -> None:
    printed = snippet.run()
    if request.config.getoption("update_examples"):
        before = snippet.page.read_text(encoding="utf-8")
        after = before.replace(f"{snippet.source}```\n", f"{printed}```\n")
        snippet.page.write_text(after, encoding="utf-8")
    else:
        assert snippet.source == printed
    logged: list[logging.LogRecord] = request.getfixturevalue("caplog").get_records("call")
    errors = [record.getMessage() for record in logged if record.levelno >= logging.ERROR]
    assert bool(errors) == snippet.logs_errors, errors


def parametrize(chosen: list[Snippet]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("snippet", chosen, ids=str)


ON_BOTH = [snippet for snippet in SNIPPETS if not snippet.needs_postgresql]


@parametrize([snippet for snippet in ON_BOTH if snippet.has_main])
@pytest.mark.usefixtures("surroundings", "caplog")
def test_snippet(snippet: Snippet, request: Fixtures) -> None:
    check(snippet, request)


@parametrize([snippet for snippet in ON_BOTH if not snippet.has_main])
@pytest.mark.sqlite  # they use no database before a test calls them
@pytest.mark.usefixtures("surroundings", "caplog")
def test_snippet_without_main(snippet: Snippet, request: Fixtures) -> None:
    check(snippet, request)


@parametrize([snippet for snippet in SNIPPETS if snippet.needs_postgresql])
@pytest.mark.postgresql
@pytest.mark.usefixtures("surroundings", "caplog")
def test_snippet_on_postgresql(snippet: Snippet, request: Fixtures) -> None:
    check(snippet, request)


def test_every_python_block_is_a_snippet() -> None:
    fences = [fence for page in PAGES for fence in ANY_FENCE.findall(page.read_text())]

    assert len(SNIPPETS) == len(fences)
    for snippet in SNIPPETS:
        assert snippet.flags in {"", "postgresql", "logs errors", "postgresql logs errors"}, snippet


def test_snippet_has_a_main_or_a_title_that_a_test_uses() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "docs").glob("test_*.py"))
    titles = [snippet.title for snippet in SNIPPETS if snippet.title]

    assert len(titles) == len({*titles})
    for snippet in SNIPPETS:
        # Tests use files of docs/testing.md by their suffix, and revisions by their name.
        title = (snippet.title or "").removeprefix("revision: ")
        is_used = title.endswith(".py") or f'"{title}"' in tests
        assert is_used if title else snippet.has_main, snippet


WRONG = {
    "different output": "print(1)\n# > 2\n",
    "no print": "# > 1\n",
    "missing output": "print(1)\n",
    "never runs": "if not True:\n    print(1)\n",
    "two prints in a line": "print(1); print(2)\n# > 1\n# > 2\n",
    "different order": "for n in (2, 1):\n    if n == 1:\n        print(1)\n        # > 1\n    else:\n"
    "        print(2)\n        # > 2\n",
    "print inside an expression": "if print(1):\n    pass\n",
}


@pytest.mark.parametrize("source", WRONG.values(), ids=WRONG)
def test_snippet_with_wrong_output_fails(source: str) -> None:
    snippet = Snippet(ROOT / "page.md", 0, "", source)

    with pytest.raises(AssertionError):
        assert source == snippet.run()


def test_output_is_written_below_each_print() -> None:
    source = "for n in (1, 2):\n    print(n)\n    # > 1\n    # > 2\nprint('a\\nb')\n# > a\n# > b\n"

    assert source == Snippet(ROOT / "page.md", 0, "", source).run()
