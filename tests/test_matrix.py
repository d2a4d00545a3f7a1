"""All combinations of choices render files that parse, and code that passes the checks.

With the reference, all combinations are rendered. Without it, a subset that contains every pair of answers is
enough: one test shows that `contents` only deletes files and changes links. Each distinct text is checked once.
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from cookiecutter.main import cookiecutter

from tests.combinations import CLOSED, COMBINATIONS, Combination, covering_subset
from tests.conftest import IN_MEMORY, REFERENCE, files
from tests.test_render import parse

pytestmark = pytest.mark.full

Tree = frozenset[tuple[str, str]]  # paths and texts

WITH_REFERENCE = [c for c in COMBINATIONS if c["contents"] == REFERENCE]
WITHOUT_REFERENCE = covering_subset(contents="service")
# Pages with links to the reference.
PAGES = {"README.md", "deploy/README.md", "docs/operations.md", "docs/sessions.md"}


class Rendered(NamedTuple):
    projects: list[tuple[Combination, dict[str, str]]]  # the texts of each
    texts: dict[str, set[str]]  # the texts of all projects at each path
    code: set[Tree]  # the Python files of each


def render(template: Path, config: Path, answers: dict[str, str]) -> dict[str, str]:
    """Return the texts of a rendered project. Without git on the PATH: it would double the time."""
    os.environ["PATH"] = ""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        project = Path(
            cookiecutter(
                str(template),
                config_file=str(config),
                extra_context=answers,
                no_input=True,
                output_dir=folder,
            )
        )
        return {str(p.relative_to(project)): p.read_text(encoding="utf-8") for p in files(project)}


@pytest.fixture(scope="module")
def rendered(template: Path, cookiecutter_config: Path) -> Rendered:
    texts = defaultdict[str, set[str]](set)
    code = set[Tree]()
    chosen = WITH_REFERENCE + WITHOUT_REFERENCE
    with ProcessPoolExecutor() as executor:
        arguments = ([template] * len(chosen), [cookiecutter_config] * len(chosen))
        projects = [*executor.map(render, *arguments, chosen, chunksize=8)]
    for project in projects:
        for path, text in project.items():
            texts[path].add(text)
        code.add(frozenset((p, t) for p, t in project.items() if p.endswith(".py")))
    return Rendered([*zip(chosen, projects, strict=True)], texts, code)


def test_contents_only_deletes_files_and_changes_links(rendered: Rendered) -> None:
    projects = {tuple(answers.values()): texts for answers, texts in rendered.projects}

    for answers in WITHOUT_REFERENCE:
        service = projects[tuple(answers.values())]
        reference = projects[tuple((answers | {"contents": REFERENCE}).values())]
        changed = {path for path, text in service.items() if reference[path] != text}
        assert changed <= PAGES


def test_every_file_is_tidy_and_parses(rendered: Rendered) -> None:
    for path, texts in rendered.texts.items():
        for text in texts:
            assert_tidy(Path(path), text)
            parse(Path(path), text)


def assert_tidy(path: Path, text: str) -> None:
    assert not re.search(r"(?<!%7B)cookiecutter|\{%|%\}|(?<!\$)\{\{", text), path
    assert text.endswith("\n"), path
    assert not text.endswith("\n\n"), path
    assert not re.search(r"\n\n\n\n|[ \t]\n", text), path


@pytest.mark.parametrize(
    ("path", "check"),
    [
        (".github/workflows/ci.yml", "check-jsonschema --builtin-schema vendor.github-workflows"),
        (".github/workflows/ci.yml", "zizmor --offline --no-config --strict-collection"),
        (".github/dependabot.yml", "check-jsonschema --builtin-schema vendor.dependabot"),
        (".github/dependabot.yml", "zizmor --offline --no-config --strict-collection"),
        (".gitlab-ci.yml", "check-jsonschema --builtin-schema vendor.gitlab-ci"),
        ("compose.yaml", "check-jsonschema --builtin-schema vendor.compose-spec"),
        ("Dockerfile", "hadolint --failure-threshold style"),
    ],
)
def test_file_passes_the_linter_of_its_format(
    rendered: Rendered, tmp_path: Path, path: str, check: str
) -> None:
    for number, text in enumerate(rendered.texts[path]):
        copy = tmp_path / str(number) / Path(path).name  # the linters need the name
        copy.parent.mkdir()
        copy.write_text(text)
    names = [*tmp_path.glob("*/*")]
    assert names

    tool, *options = check.split()
    subprocess.run([Path(sys.executable).with_name(tool), *options, *names], check=True)


def test_code_passes_format_lint_types_and_import_checks(
    rendered: Rendered, project: Path, folder: Path
) -> None:
    tools = project / ".venv" / "bin"
    assert len(rendered.code) == len(CLOSED["databases"]) * len(CLOSED["contents"])
    for tree in rendered.code:
        copy = folder / "matrix"
        for path, text in [*tree, ("pyproject.toml", (project / "pyproject.toml").read_text())]:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_text(text, encoding="utf-8")
        for command in (
            ["ruff", "format", "--check"],
            ["ruff", "check"],
            ["mypy"],
            ["lint-imports"],
        ):
            subprocess.run([tools / command[0], *command[1:]], check=True, cwd=copy)
        rmtree(copy)
