"""The tree of a rendered service, as the README shows it: python -m tests.drawing writes it there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from cookiecutter.main import cookiecutter

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SHOWN = re.compile(r"(?<=<!-- tree -->\n```text\n).*?(?=```\n)", re.DOTALL)

OPEN = {".", "app", "app/core", "app/migrations", "docs", "tests"}  # folders whose files are shown
SAID = {  # of what cannot say it itself
    ".dockerignore": "",
    ".env.example": "Every setting, its default and its meaning",
    ".github": "Checks at every push, audit every week (or .gitlab-ci.yml)",
    ".gitignore": "",
    "Dockerfile": "The image: serves, or migrates",
    "LICENSE": "",
    "Makefile": "make run, test, check, format, audit, migrate, revision",
    "SECURITY.md": "Whom to tell of a vulnerability",
    "alembic.ini": "A section for each database",
    "app/migrations/analytics": "Revisions of the analytics database",
    "app/migrations/primary": "Revisions of the primary database",
    "app/migrations/script.py.mako": "What a new revision looks like",
    "compose.yaml": "The service on PostgreSQL, on one machine",
    "deploy": "Kubernetes: a kustomize base, staging and production",
    "docs": "Patterns that run: each example is run by the tests",
    "pyproject.toml": "",
    "README.md": "Run, test, configure; one more database; what may be deleted",
    "tests/core": "Tests stand as the rooms do",
    "tests/docs": "Runs every example of the pages",
    "tests/harness": "The servers that tests run on: yours, Docker's, a wheel's; PgBouncer, a replica",
    "tests/conformance": "A file for each promise of a session",
}
UNSHOWN = {
    "tests/migrations",
    "tests/models",
    "tests/repositories",
    "tests/routers",
    "tests/services",
}
WIDTH = 30


def draw(project: Path) -> str:
    """Return the tree of a rendered service, each line with what the file says of itself."""
    return "".join(f"{line}\n" for line in [f"{project.name}/", *_lines(project, project, "")])


def _lines(project: Path, folder: Path, indent: str) -> Iterator[str]:
    entries = [path for path in folder.iterdir() if _is_shown(project, path)]
    entries.sort(key=lambda path: (path.is_file(), path.name.lower()))
    for path in entries:
        last = path == entries[-1]
        name = f"{indent}{'└── ' if last else '├── '}{path.name}{'/' if path.is_dir() else ''}"
        yield f"{name:{WIDTH}} {_about(project, path)}".rstrip()
        if path.relative_to(project).as_posix() in OPEN:
            yield from _lines(project, path, indent + ("    " if last else "│   "))


def _is_shown(project: Path, path: Path) -> bool:
    hidden = path.name in {".git", "__init__.py", "__pycache__"}
    return not hidden and path.relative_to(project).as_posix() not in UNSHOWN


def _about(project: Path, path: Path) -> str:
    """Return the first sentence of a module, the title of a page, or what is said of it here."""
    relative = path.relative_to(project).as_posix()
    module = path / "__init__.py" if path.is_dir() else path
    if relative in SAID:
        return SAID[relative]
    if path.suffix == ".md":
        return path.read_text().partition("\n")[0].removeprefix("# ")
    first = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n")[0]
    return first.partition(". ")[0].removesuffix(".")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        tree = draw(Path(cookiecutter(str(ROOT), no_input=True, output_dir=folder)))
    README.write_text(SHOWN.sub(lambda _: tree, README.read_text(), count=1))
