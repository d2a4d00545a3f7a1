"""Draws the tree of a rendered service in the README: python -m tests.drawing."""

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
SAID = {  # for files and folders without a docstring or a title
    ".dockerignore": "",
    ".env.example": "Every setting, its default and its meaning",
    ".github": "Checks at every push, audit every week (or .gitlab-ci.yml)",
    ".gitignore": "",
    "Dockerfile": "The image: serves or migrates",
    "LICENSE": "",
    "Makefile": "make run, test, check, format, audit, migrate, revision",
    "SECURITY.md": "How to report a vulnerability",
    "alembic.ini": "Alembic's settings, a section for each database",
    "app/migrations/analytics": "Revisions of the analytics database",
    "app/migrations/primary": "Revisions of the primary database",
    "app/migrations/script.py.mako": "The template of a new revision",
    "compose.yaml": "The service on PostgreSQL, on one machine",
    "deploy": "Kubernetes: a kustomize base, staging and production",
    "docs": "",
    "pyproject.toml": "",
    "README.md": "Run, test, configure, add a resource or a database",
    "tests": "Tests, in the layout of app/",
    "tests/core": "",
    "tests/harness": "Starts PostgreSQL: your server, Docker, or a Python package",
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
    """Return the tree of a rendered service, each line with the first sentence of the file."""
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
    """Return the text in SAID, the title of a page, or the first sentence of a module."""
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
