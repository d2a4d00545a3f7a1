"""The Python snippets of the README and of docs/.

What stands behind ```python, in the same line, is where it runs: `postgresql` or `sqlite`, and both
of them without it; `title="…"` names one that a test drives.
"""

from pathlib import Path

from pytest_examples import CodeExample, find_examples

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [*find_examples(*PAGES)]

KINDS = {"postgresql", "sqlite"}


def snippets_for(*kinds: str) -> list[CodeExample]:
    """Return the snippets that name exactly these kinds of databases."""
    return [snippet for snippet in SNIPPETS if snippet.prefix_tags() & KINDS == {*kinds}]


def find_snippet(title: str) -> CodeExample:
    """Return the one snippet of this title."""
    [snippet] = [s for s in SNIPPETS if s.prefix_settings().get("title") == title]
    return snippet
