"""The Python snippets of the README and of docs/, and what they print.

A comment `# > text` below a `print` says what it prints. Behind ```python, in the same line,
`postgresql` says that the snippet runs there only; `title="…"` names one that a test drives.
"""

import ast
import asyncio
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCED = re.compile(r"^```python *([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(r"^ *# > ")


@dataclass(frozen=True)
class Snippet:
    page: Path
    line: int  # of the page, above the first one of the source
    about: str
    source: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def title(self) -> str | None:
        found = re.search(r'title="([^"]+)"', self.about)
        return found and found[1]

    @property
    def is_of_postgresql(self) -> bool:
        return "postgresql" in self.about.split()

    def load(self, name: str) -> tuple[ModuleType, dict[int, list[str]]]:
        """Return the snippet as a module of this name, and what is printed by each of its lines."""
        printed = defaultdict[int, list[str]](list)

        def record(*values: object) -> None:
            line = sys._getframe(1).f_lineno - self.line
            printed[line] += " ".join(map(str, values)).splitlines()

        module = ModuleType(name)
        vars(module)["print"] = record
        lines = "\n" * self.line + self.source  # so that a traceback leads into the page
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, name, module)
            exec(compile(lines, self.page, "exec"), vars(module))  # noqa: S102, it is our own
        return module, printed

    def run(self) -> str:
        """Run the snippet, its `main` included; return it with what it has printed."""
        module, printed = self.load("__main__")
        if main := getattr(module, "main", None):
            asyncio.run(main())
        return self._with(printed)

    def _with(self, printed: dict[int, list[str]]) -> str:
        output = {}
        for node in ast.walk(ast.parse(self.source)):
            match node:
                case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
                    indent = " " * node.col_offset
                    below = [
                        f"{indent}# > {text}".rstrip() for text in printed.pop(node.lineno, [])
                    ]
                    output[node.end_lineno] = below
        assert not printed, f"a print in {self} is no statement of its own"
        lines = enumerate(self.source.splitlines(), start=1)
        kept = [[text, *output.get(n, [])] for n, text in lines if not OUTPUT.match(text)]
        return "".join(f"{line}\n" for some in kept for line in some)


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(page, text[: found.start(2)].count("\n"), *found.groups())
        for found in FENCED.finditer(text)
    ]


SNIPPETS = [snippet for page in PAGES for snippet in snippets(page)]


def find_snippet(title: str) -> Snippet:
    """Return the one snippet of this title."""
    [snippet] = [snippet for snippet in SNIPPETS if snippet.title == title]
    return snippet
