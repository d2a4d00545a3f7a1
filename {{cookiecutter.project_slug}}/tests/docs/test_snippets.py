"""Every snippet runs. Its `main` is called, and prints what the comments `# >` say."""

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


def those(*, of_postgresql: bool) -> pytest.MarkDecorator:
    chosen = [snippet for snippet in SNIPPETS if snippet.is_of_postgresql == of_postgresql]
    return pytest.mark.parametrize("snippet", chosen, ids=str)


@those(of_postgresql=False)
@pytest.mark.usefixtures("surroundings", "caplog")
def test_snippet(snippet: Snippet, request: Fixtures) -> None:
    check(snippet, request)


@those(of_postgresql=True)
@pytest.mark.postgresql
@pytest.mark.usefixtures("surroundings", "caplog")
def test_snippet_on_postgresql(snippet: Snippet, request: Fixtures) -> None:
    check(snippet, request)


def test_every_fence_of_python_is_a_snippet() -> None:
    fences = [fence for page in PAGES for fence in ANY_FENCE.findall(page.read_text())]

    assert len(SNIPPETS) == len(fences)
    for snippet in SNIPPETS:
        assert snippet.marks in {"", "postgresql", "logs errors", "postgresql logs errors"}, snippet


def test_snippet_has_a_main_or_a_test_that_drives_it() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "docs").glob("test_*.py"))
    titles = [snippet.title for snippet in SNIPPETS if snippet.title]

    assert len(titles) == len({*titles})
    for snippet in SNIPPETS:
        # A file of docs/testing.md is found by its suffix, a revision by its name.
        title = (snippet.title or "").removeprefix("revision: ")
        driven = title.endswith(".py") or f'"{title}"' in tests
        assert driven if title else snippet.has_main, snippet


WRONG = {
    "says something else": "print(1)\n# > 2\n",
    "says nothing": "# > 1\n",
    "says more than it shows": "print(1)\n",
    "never runs": "if not True:\n    print(1)\n",
    "two in a line": "print(1); print(2)\n# > 1\n# > 2\n",
    "another order": "for n in (2, 1):\n    if n == 1:\n        print(1)\n        # > 1\n    else:\n"
    "        print(2)\n        # > 2\n",
    "no statement of its own": "if print(1):\n    pass\n",
}


@pytest.mark.parametrize("source", WRONG.values(), ids=WRONG)
def test_snippet_that_shows_something_else_than_it_says_is_noticed(source: str) -> None:
    snippet = Snippet(ROOT / "page.md", 0, "", source)

    with pytest.raises(AssertionError):
        assert source == snippet.run()


def test_what_is_printed_is_shown_below_each_print() -> None:
    source = "for n in (1, 2):\n    print(n)\n    # > 1\n    # > 2\nprint('a\\nb')\n# > a\n# > b\n"

    assert source == Snippet(ROOT / "page.md", 0, "", source).run()
