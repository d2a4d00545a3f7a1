"""All combinations of choices render files that parse, and code that passes the checks.

A file depends on few of the questions (`questions_of_files`). So a few combinations contain every text that any
combination renders: all answers to the questions of each file, and every pair of answers. Each distinct text is
checked once.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from cookiecutter.main import cookiecutter

from tests.combinations import CLOSED, PAIRS, Combination, covering_subset, part, questions_of_files
from tests.conftest import IN_MEMORY, REFERENCE, files
from tests.test_checks import OF_THE_SERVICE, run
from tests.test_render import parse

pytestmark = pytest.mark.full

Texts = dict[str, str]  # of the files of a project


class Rendered(NamedTuple):
    whole: list[tuple[Combination, Texts]]  # with all files
    varying: list[tuple[Combination, Texts]]  # with the files that depend on answers
    texts: dict[str, set[str]]  # all texts at each path


def render(template: Path, config: Path, answers: Combination) -> Texts:
    """Return the texts of a rendered project. Without git on the PATH: it would double the time."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
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
def questions(template: Path, hook: dict[str, Any]) -> dict[str, set[str]]:
    return questions_of_files(json.loads((template / "cookiecutter.json").read_text()), hook)


@pytest.fixture(scope="module")
def rendered(
    template: Path, varying: Path, cookiecutter_config: Path, questions: dict[str, set[str]]
) -> Rendered:
    groups = PAIRS | {tuple(sorted(found)) for found in questions.values()}
    whole, some = (
        [(answers, render(source, cookiecutter_config, answers)) for answers in chosen]
        for source, chosen in (
            (template, covering_subset({("contents", "databases")})),
            (varying, covering_subset(groups)),
        )
    )
    texts = defaultdict[str, set[str]](set)
    for _, project in whole + some:
        for path, text in project.items():
            texts[path].add(text)
    return Rendered(whole, some, texts)


def test_file_depends_only_on_its_questions(
    rendered: Rendered, questions: dict[str, set[str]]
) -> None:
    """So the combinations that are rendered contain every text that any combination contains."""
    assert rendered.texts.keys() <= questions.keys()
    for projects in (rendered.whole, rendered.varying):
        for path in {path for _, project in projects for path in project}:
            texts = defaultdict[object, set[str | None]](set)
            for answers, project in projects:
                texts[part(answers, questions[path])].add(project.get(path))

            assert all(len(same) == 1 for same in texts.values()), path


def test_contents_only_deletes_files_and_changes_links(
    rendered: Rendered, hook: dict[str, Any]
) -> None:
    projects = {(a["databases"], a["contents"]): texts for a, texts in rendered.whole}

    for databases in CLOSED["databases"]:
        reference = projects[databases, REFERENCE]
        service = projects[databases, "service"]
        changed = {path for path, text in service.items() if reference[path] != text}
        assert changed <= {*hook["PAGES"]}


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
    """Without the reference, the service has the same code in fewer files, which import no other file."""
    trees = [texts for answers, texts in rendered.whole if answers["contents"] == REFERENCE]
    assert len(trees) == len(CLOSED["databases"])
    tools, copy = project / ".venv/bin", folder / "matrix"
    for tree in trees:
        for path, text in tree.items():
            if path.endswith((".py", ".toml")):
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                (copy / path).write_text(text, encoding="utf-8")
        for check in OF_THE_SERVICE:
            run(check, copy, tools)
        rmtree(copy)
