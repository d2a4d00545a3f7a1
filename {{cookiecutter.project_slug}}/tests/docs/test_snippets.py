"""Every snippet runs. Its `main` is called, and prints what the comments `#>` say."""

import pytest
from pytest_examples import CodeExample, EvalExample

from tests.docs.snippets import SNIPPETS, snippets_for


def run(snippet: CodeExample, eval_example: EvalExample) -> None:
    eval_example.set_config(line_length=100)
    check = eval_example.run_print_check
    if eval_example.update_examples:  # pytest --update-examples writes what is printed
        check = eval_example.run_print_update
    check(snippet, call="main")


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("snippet", snippets_for(), ids=str)
def test_snippet(snippet: CodeExample, eval_example: EvalExample) -> None:
    run(snippet, eval_example)


@pytest.mark.postgresql
@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("snippet", snippets_for("postgresql"), ids=str)
def test_snippet_on_postgresql(snippet: CodeExample, eval_example: EvalExample) -> None:
    run(snippet, eval_example)


@pytest.mark.sqlite
@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("snippet", snippets_for("sqlite"), ids=str)
def test_snippet_on_sqlite(snippet: CodeExample, eval_example: EvalExample) -> None:
    run(snippet, eval_example)


def test_titles_are_unique_and_each_other_snippet_does_something() -> None:
    titles = [title for s in SNIPPETS if (title := s.prefix_settings().get("title"))]

    assert len(titles) == len({*titles})
    for snippet in SNIPPETS:
        runs = "asyncio.run(" in snippet.source or "main()" in snippet.source
        assert runs or "title" in snippet.prefix_settings(), snippet
