"""Every snippet runs. Its `main` is called, and prints what the comments `# >` say."""

from pathlib import Path

import pytest

from tests.docs.snippets import SNIPPETS, Snippet


def check(snippet: Snippet, request: pytest.FixtureRequest) -> None:
    printed = snippet.run()
    if request.config.getoption("update_examples"):
        page = Path(snippet.page)
        page.write_text(page.read_text().replace(snippet.source, printed))
    else:
        assert snippet.source == printed


def of(*kinds: str) -> pytest.MarkDecorator:
    chosen = [snippet for snippet in SNIPPETS if snippet.kinds == {*kinds}]
    return pytest.mark.parametrize("snippet", chosen, ids=str)


@of()
@pytest.mark.usefixtures("surroundings")
def test_snippet(snippet: Snippet, request: pytest.FixtureRequest) -> None:
    check(snippet, request)


@of("postgresql")
@pytest.mark.postgresql
@pytest.mark.usefixtures("surroundings")
def test_snippet_on_postgresql(snippet: Snippet, request: pytest.FixtureRequest) -> None:
    check(snippet, request)


@of("sqlite")
@pytest.mark.sqlite
@pytest.mark.usefixtures("surroundings")
def test_snippet_on_sqlite(snippet: Snippet, request: pytest.FixtureRequest) -> None:
    check(snippet, request)


def test_titles_are_unique_and_each_other_snippet_does_something() -> None:
    titles = [snippet.title for snippet in SNIPPETS if snippet.title]

    assert len(titles) == len({*titles})
    for snippet in SNIPPETS:
        runs = "asyncio.run(" in snippet.source or "def main()" in snippet.source
        assert runs or snippet.title, snippet
