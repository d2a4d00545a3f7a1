"""All combinations of the closed questions render, and whatever any of them renders is well.

What several combinations render alike is checked once.
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from math import prod
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from cookiecutter.main import cookiecutter

from tests.combinations import CLOSED, COMBINATIONS
from tests.conftest import IN_MEMORY, files
from tests.test_render import parse

pytestmark = pytest.mark.full

Tree = frozenset[tuple[str, str]]  # paths and what stands there


class Rendered(NamedTuple):
    projects: int
    texts: dict[str, set[str]]  # what any of them has at each path
    code: set[Tree]  # the Python files of each


def render(template: Path, config: Path, answers: dict[str, str]) -> dict[str, str]:
    """Return the texts of a project; without git, which would take as long as the rest."""
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
    with ProcessPoolExecutor() as executor:
        arguments = ([template] * len(COMBINATIONS), [cookiecutter_config] * len(COMBINATIONS))
        projects = [*executor.map(render, *arguments, COMBINATIONS, chunksize=8)]
    for project in projects:
        for path, text in project.items():
            texts[path].add(text)
        code.add(frozenset((p, t) for p, t in project.items() if p.endswith(".py")))
    return Rendered(len(projects), texts, code)


def test_every_combination_renders(rendered: Rendered) -> None:
    assert rendered.projects == prod(map(len, CLOSED.values()))


def test_every_file_is_tidy_and_parses(rendered: Rendered) -> None:
    for path, texts in rendered.texts.items():
        for text in texts:
            assert_tidy(Path(path), text)
            parse(Path(path), text)


def assert_tidy(path: Path, text: str) -> None:
    assert not re.search(r"cookiecutter|\{%|%\}|(?<!\$)\{\{", text), path
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
def test_files_are_what_their_readers_want(
    rendered: Rendered, tmp_path: Path, path: str, check: str
) -> None:
    for number, text in enumerate(rendered.texts[path]):
        copy = tmp_path / str(number) / Path(path).name  # which says what it is
        copy.parent.mkdir()
        copy.write_text(text)
    names = [*tmp_path.glob("*/*")]
    assert names

    tool, *options = check.split()
    subprocess.run([Path(sys.executable).with_name(tool), *options, *names], check=True)


def test_code_is_formatted_linted_and_typed_and_its_arrows_point_one_way(
    rendered: Rendered, project: Path, folder: Path
) -> None:
    tools = project / ".venv" / "bin"
    assert len(rendered.code) == len(CLOSED["databases"])  # nothing else makes another service
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
