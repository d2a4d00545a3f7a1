"""Every snippet runs. Its `main` is called, and prints what the comments `# >` say."""

import pytest

from tests.docs.snippets import SNIPPETS, Snippet


def check(snippet: Snippet, request: pytest.FixtureRequest) -> None:
    printed = snippet.run()
    if request.config.getoption("update_examples"):
        before = snippet.page.read_text(encoding="utf-8")
        after = before.replace(f"{snippet.source}```\n", f"{printed}```\n")
        snippet.page.write_text(after, encoding="utf-8")
    else:
        assert snippet.source == printed


def those(*, of_postgresql: bool) -> pytest.MarkDecorator:
    chosen = [snippet for snippet in SNIPPETS if snippet.is_of_postgresql == of_postgresql]
    return pytest.mark.parametrize("snippet", chosen, ids=str)


@those(of_postgresql=False)
@pytest.mark.usefixtures("surroundings")
def test_snippet(snippet: Snippet, request: pytest.FixtureRequest) -> None:
    check(snippet, request)


@those(of_postgresql=True)
@pytest.mark.postgresql
@pytest.mark.usefixtures("surroundings")
def test_snippet_on_postgresql(snippet: Snippet, request: pytest.FixtureRequest) -> None:
    check(snippet, request)


def test_titles_are_unique_and_each_other_snippet_does_something() -> None:
    titles = [snippet.title for snippet in SNIPPETS if snippet.title]

    assert len(titles) == len({*titles})
    for snippet in SNIPPETS:
        runs = "asyncio.run(" in snippet.source or "def main()" in snippet.source
        assert runs or snippet.title, snippet
