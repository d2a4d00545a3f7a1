"""Find and run the Python examples of README.md and docs/.

`# > text` comments below a `print` show its output. `pytest --update-examples -n0 tests/docs` rewrites
them. Options in the line of ```python:

    postgresql     run it on PostgreSQL only
    logs errors    it must log an error
    title="…"      a test uses it by this title
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
    line: int  # number of lines in the page before the source
    options: str
    source: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def title(self) -> str | None:
        found = re.search(r'title="([^"]+)"', self.options)
        return found and found[1]

    @property
    def flags(self) -> str:
        return re.sub(r'title="[^"]+"', "", self.options).strip()

    @property
    def needs_postgresql(self) -> bool:
        return self.flags.startswith("postgresql")

    @property
    def logs_errors(self) -> bool:
        return self.flags.endswith("logs errors")

    @property
    def has_main(self) -> bool:
        body = ast.parse(self.source).body
        return any(isinstance(node, ast.AsyncFunctionDef) and node.name == "main" for node in body)

    def load(self, name: str) -> tuple[ModuleType, dict[int, list[str]]]:
        """Return the snippet as a module of this name, and the output of each line that prints."""
        printed = defaultdict[int, list[str]](list)

        def record(*values: object) -> None:
            line = sys._getframe(1).f_lineno - self.line
            printed[line] += " ".join(map(str, values)).splitlines()

        module = ModuleType(name)
        vars(module)["print"] = record
        lines = "\n" * self.line + self.source  # so that tracebacks show lines of the page
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, name, module)
            exec(compile(lines, self.page, "exec"), vars(module))  # noqa: S102, our own code
        return module, printed

    def run(self) -> str:
        """Run the snippet and its `main`; return the source with `# >` comments of its output."""
        module, printed = self.load("__main__")
        if main := getattr(module, "main", None):
            asyncio.run(main())
        assert [*printed] == sorted(printed), f"{self}: prints must run in the order of their lines"
        return self._with_output(printed)

    def _with_output(self, printed: dict[int, list[str]]) -> str:
        output: dict[int | None, list[str]] = {}
        tree = ast.parse(self.source)
        tried = [node for t in ast.walk(tree) if isinstance(t, ast.Try) for node in t.body]
        may_not_run = {id(node) for statement in tried for node in ast.walk(statement)}
        for node in ast.walk(tree):
            match node:
                case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
                    texts = printed.pop(node.lineno, None)
                    must_run = not self.title and id(node) not in may_not_run
                    assert texts or not must_run, f"{self}: a print never runs"
                    indent = " " * node.col_offset
                    output[node.end_lineno] = [f"{indent}# > {t}".rstrip() for t in texts or []]
        assert not printed, f"{self}: each print must be a statement on its own line"
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
    """Return the snippet with this title."""
    [snippet] = [snippet for snippet in SNIPPETS if snippet.title == title]
    return snippet
