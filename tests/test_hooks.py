"""What the hooks refuse, and what they say."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Bake

Rendered = subprocess.CompletedProcess[str]
Render = Callable[..., Rendered]


@pytest.fixture
def render(template: Path, cookiecutter_config: Path, tmp_path: Path) -> Render:
    """Render into the test's own folder as a person does, on the command line."""

    def render(*options: str, path: str = os.environ["PATH"], **answers: str) -> Rendered:
        return subprocess.run(
            [
                *(sys.executable, "-m", "cookiecutter", str(template), "--no-input"),
                *("--config-file", str(cookiecutter_config), "--output-dir", str(tmp_path)),
                *options,
                *(f"{name}={value}" for name, value in answers.items()),
            ],
            capture_output=True,
            check=False,
            env=os.environ | {"PATH": path},
            text=True,
        )

    return render


REFUSED = [
    ("project_slug", "Orders", "must be lower-case letters, digits and single hyphens"),
    ("project_slug", "two words", "must be lower-case letters"),
    ("project_slug", "-orders", "must be lower-case letters"),
    ("project_slug", "x" * 64, "must be lower-case letters"),
    ("project_slug", "app", "is taken by a package or a command"),
    ("project_slug", "fastapi", "is taken by a package or a command"),
    ("author_email", "ada", "must be an e-mail address, such as 'ada@example.com'"),
    ("author_email", 'a"b@example.com', "must be an e-mail address"),
    ("project_name", " ", "must be one line of text, such as 'Order Service'"),
    ("description", "two\nlines", "must be one line of text"),
]


@pytest.mark.parametrize(("question", "answer", "complaint"), REFUSED)
def test_answer_is_refused_with_what_is_wrong_and_leaves_nothing(
    render: Render, tmp_path: Path, question: str, answer: str, complaint: str
) -> None:
    rendered = render(**({"project_slug": "orders"} | {question: answer}))

    assert rendered.returncode != 0
    assert f"{question}={answer!r} {complaint}" in rendered.stderr
    assert "Traceback" not in rendered.stderr
    assert not list(tmp_path.iterdir())


def test_next_steps_are_three_lines_with_the_real_folder(render: Render) -> None:
    rendered = render(project_name="Order Service")

    assert rendered.stdout.strip().splitlines() == [
        "cd order-service",
        "make run    # http://127.0.0.1:8000/docs, on SQLite",
        "make test",
    ]


def test_rendering_again_keeps_what_the_owner_has_made(render: Render, tmp_path: Path) -> None:
    render("--overwrite-if-exists")
    made = [".env", ".venv/bin/python", "var/primary.db", ".mypy_cache/x", "app/__pycache__/x.pyc"]
    for name in made:
        path = tmp_path / "example-service" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("the owner's")

    rendered = render("--overwrite-if-exists")

    assert rendered.returncode == 0, rendered.stderr
    for name in made:
        assert (tmp_path / "example-service" / name).read_text() == "the owner's"


def test_repository_is_begun(bake: Bake) -> None:
    assert (bake() / ".git").is_dir()


def test_no_repository_is_begun_inside_another(render: Render, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True, cwd=tmp_path)
    render()

    assert (tmp_path / "example-service" / "app").is_dir()
    assert not (tmp_path / "example-service" / ".git").exists()


def test_git_is_not_needed(render: Render, tmp_path: Path) -> None:
    rendered = render(path=str(tmp_path))

    assert rendered.returncode == 0
    assert not (tmp_path / "example-service" / ".git").exists()


def test_every_choice_has_a_label_and_every_question_a_sentence(template: Path) -> None:
    context = json.loads((template / "cookiecutter.json").read_text())
    prompts = context["__prompts__"]
    for question, answers in context.items():
        if question.startswith("_"):
            continue
        prompt = prompts[question]
        if isinstance(answers, list):
            assert prompt.keys() - {"__prompt__"} == set(answers)
            prompt = prompt["__prompt__"]
        assert prompt.endswith("?")
