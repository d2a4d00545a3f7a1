"""Rendered projects are complete and tidy for each choice."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import dockerfile
import pytest
import yaml
from cookiecutter.main import cookiecutter

from tests.conftest import QUESTIONS, ROOT, SERVICE, Bake, files
from tests.test_answers import author, title_and_description

EVERY_ANSWER = [
    (question, answer)
    for question, answers in QUESTIONS.items()
    if isinstance(answers, list)
    for answer in answers
]
PARSERS: dict[str, Any] = {
    "Dockerfile": dockerfile.parse_string,  # the parser of BuildKit
    ".ini": lambda text: ConfigParser().read_string(text),
    ".json": json.loads,
    ".py": ast.parse,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}


def parse(path: Path, text: str) -> None:
    PARSERS.get(path.suffix or path.name, str)(text)


@pytest.fixture(scope="session", params=EVERY_ANSWER, ids="=".join)
def rendered(bake: Bake, request: pytest.FixtureRequest) -> Path:
    question, answer = request.param
    return bake(**{question: answer})


def test_no_folder_is_empty_and_no_cache_is_left(rendered: Path) -> None:
    folders = [p for p in rendered.rglob("*") if p.is_dir() and ".git" not in p.parts]

    assert all(any(folder.iterdir()) for folder in folders)
    assert not [p for p in folders if p.name == "__pycache__" or p.name.endswith("_cache")]


def assert_every_file_parses(project: Path) -> None:
    for path in files(project):
        parse(path, path.read_text())


def assert_code_is_formatted_and_linted(project: Path) -> None:
    for arguments in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache"]
        subprocess.run(command, check=True, cwd=project)


def test_leftovers_in_the_template_folder_are_not_rendered(
    template: Path, cookiecutter_config: Path, tmp_path: Path
) -> None:
    dirty = shutil.copytree(template, tmp_path / "template")
    for name in (".env", ".venv/lib/x.py", "var/primary.db", ".ruff_cache/x", "app/__pycache__/x"):
        leftover = dirty / SERVICE / name
        leftover.parent.mkdir(parents=True, exist_ok=True)
        leftover.write_text("# {% leftover {{")

    project = cookiecutter(
        str(dirty), config_file=str(cookiecutter_config), no_input=True, output_dir=str(tmp_path)
    )

    assert not (Path(project) / ".new-project").exists()
    for path in files(Path(project)):
        assert "leftover" not in path.read_text(), path


@pytest.mark.parametrize("contents", QUESTIONS["contents"])
def test_service_with_one_database_does_not_mention_another(bake: Bake, contents: str) -> None:
    for path in files(bake(databases="primary", contents=contents)):
        assert "analytics" not in (path.name + path.read_text()).lower(), path


CI_FILES = {"github": {".github"}, "gitlab": {".gitlab-ci.yml"}, "none": set()}


def test_only_the_chosen_ci_has_files(bake: Bake) -> None:
    for answer in QUESTIONS["ci"]:
        names = {path.name for path in bake(ci=answer).iterdir()}

        assert CI_FILES[answer] == names & {".github", ".gitlab-ci.yml"}


def test_ci_uses_the_chosen_postgresql_version(bake: Bake) -> None:
    github = bake(ci="github", postgres_version="16")
    gitlab = bake(ci="gitlab", postgres_version="16")
    on_github = yaml.safe_load((github / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    on_gitlab = yaml.safe_load((gitlab / ".gitlab-ci.yml").read_text())["test"]
    tests = [step for step in on_github["steps"] if step.get("run") == "make test"]

    assert on_github["services"]["postgres"]["image"] == "postgres:16-alpine"
    assert on_gitlab["services"][0]["name"] == "postgres:16-alpine"
    assert [step["env"] for step in tests] == [
        {"TEST_POSTGRES": "docker"},
        {"TEST_DATABASE_URL": "postgresql://postgres:postgres@localhost:5432/ci_test"},
        {"TEST_POSTGRES": "embedded"},
    ]
    for project in (github, gitlab):
        assert 'postgres_image = "postgres:16-alpine"' in (project / "pyproject.toml").read_text()


def test_dockerfile_and_compose_use_the_chosen_versions(bake: Bake) -> None:
    paths = {"17": "/var/lib/postgresql/data", "18": "/var/lib/postgresql"}
    for version, path in paths.items():
        project = bake(python_version="3.12", postgres_version=version)
        services = yaml.safe_load((project / "compose.yaml").read_text())["services"]
        python = services["server"]["build"]["args"]["PYTHON_IMAGE"]

        assert "ARG PYTHON_IMAGE=python:3.12-slim\n" in (project / "Dockerfile").read_text()
        assert python == "${PYTHON_IMAGE:-python:3.12-slim}"
        for name in ("primary", "analytics"):
            server = services[f"postgres-{name}"]
            assert server["image"] == f"${{POSTGRES_IMAGE:-postgres:{version}-alpine}}"
            assert server["volumes"] == [f"{name}:{path}"]


def test_packages_are_audited_in_ci(bake: Bake) -> None:
    github = yaml.safe_load((bake(ci="github") / ".github/workflows/ci.yml").read_text())
    gitlab = yaml.safe_load((bake(ci="gitlab") / ".gitlab-ci.yml").read_text())

    assert {"run": "make audit"} in github["jobs"]["audit"]["steps"]
    assert {"pull_request", "push", "schedule"} == set(github[True])  # YAML 1.1 reads `on` as True
    assert gitlab["audit"]["script"] == ["make audit"]


def test_actions_are_pinned_as_in_the_templates_own_workflow() -> None:
    """Dependabot updates the pins of the template's own workflow. It cannot read the unrendered one."""
    workflow = Path(".github/workflows/ci.yml")
    pins, rendered = (
        set(re.findall(r"uses: (.+)", (folder / workflow).read_text()))
        for folder in (ROOT, ROOT / SERVICE)
    )

    assert pins
    assert pins == rendered
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", pin) for pin in pins)


def test_vulnerabilities_are_reported_to_the_author(bake: Bake) -> None:
    project = bake(author_email="grace@example.com")

    assert "<grace@example.com>" in (project / "SECURITY.md").read_text()


def test_chosen_license_is_rendered(bake: Bake) -> None:
    texts = {
        "MIT": "MIT License",
        "Apache-2.0": "Apache License",
        "BSD-3-Clause": "BSD 3-Clause License",
        "Proprietary": "All rights reserved",
    }
    for answer in QUESTIONS["license"]:
        project = bake(license=answer)

        assert texts[answer] in (project / "LICENSE").read_text()
        assert not list(project.glob("LICENSE.*"))


@pytest.mark.parametrize(
    "text",
    ['Ada\'s "Orders"', r"C:\new", "Zoë 🦄 & <co>", "مرحبا", "50 % of {all} #1", "${x} $(y)"],
)
def test_answers_with_special_characters_are_rendered_unchanged(bake: Bake, text: str) -> None:
    project = bake(project_name=text, project_slug="orders", description=text, author_name=text)

    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]

    assert metadata["description"] == text
    assert author(project)[0] == text
    assert title_and_description(project) == (text, text)
    assert text in (project / "README.md").read_text()
    assert_every_file_parses(project)
    assert_code_is_formatted_and_linted(project)


def test_bake_refuses_a_question_and_a_choice_that_do_not_exist(bake: Bake) -> None:
    with pytest.raises(AssertionError, match="no such question"):
        bake(database="primary")
    with pytest.raises(ValueError, match="secondary"):
        bake(databases="secondary")
