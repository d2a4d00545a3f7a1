"""Questions, derived defaults, and invalid answers, which are refused in one sentence and leave no file."""

import ast
import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import QUESTIONS, SERVICE, Bake, Install, Render, make
from tests.servers import ForkServer

SLUG = "must be lower-case letters, digits and single hyphens, begin with a letter and have 63"
RESERVED = "must be a name that Windows does not reserve, such as 'order-service'"
ONE_LINE = "must be one line of text, such as"

REFUSED = [
    *(("project_slug", slug, SLUG) for slug in ("Orders", "two words", "-orders", "a_b", "x" * 64)),
    *(
        ("project_slug", slug, SLUG)
        for slug in ("a/b", "../orders", "a\\b", ".orders", "3d", "a--b")
    ),
    *(("project_slug", slug, RESERVED) for slug in ("con", "aux", "lpt1")),
    ("project_slug", "", f"{ONE_LINE} 'order-service'"),
    *(
        ("author_email", email, "must be an e-mail address, such as 'ada@example.com'")
        for email in (
            "ada",
            "ada@localhost",
            'a"b@example.com',
            "a b@example.com",
            "a,b@example.com",
            "ü@example.com",
        )
    ),
    *(
        ("project_name", name, f"{ONE_LINE} 'Order Service'")
        for name in ("", " ", "a\tb", "a\x7fb")
    ),
    *(("description", text, ONE_LINE) for text in ("two\nlines", "two\u2028lines", "two\x85lines")),
    ("author_name", "a\ufeffb", ONE_LINE),
]


@pytest.mark.parametrize(("question", "answer", "complaint"), REFUSED)
def test_answer_is_refused_in_one_sentence_and_leaves_nothing(
    render: Render, tmp_path: Path, question: str, answer: str, complaint: str
) -> None:
    before = set(tmp_path.parent.iterdir())

    rendered = render(**({"project_slug": "orders"} | {question: answer}))

    assert rendered.returncode == 1
    assert rendered.stderr.startswith(f"{question}={answer!r} {complaint}")
    assert rendered.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert set(tmp_path.parent.iterdir()) == before


@pytest.mark.full
@pytest.mark.parametrize("slug", ["app", "tests", "json", "import"])
def test_slug_may_be_the_name_of_a_module_or_package(
    bake: Bake, install: Install, fork_server: ForkServer, slug: str
) -> None:
    """The distribution is called app and installs no command, so the slug cannot clash."""
    project = install(bake(project_slug=slug))

    make(project, "migrate", *(["check"] if slug == "app" else []))
    tests = ["tests/test_main.py", "tests/routers", "--db=sqlite"]
    ended = fork_server.pytest(*tests, folder=project)

    assert ended.returncode == 0, ended.stdout


def test_existing_folder_is_refused_and_left_unchanged(render: Render, tmp_path: Path) -> None:
    existing = tmp_path / "orders" / "file"
    existing.parent.mkdir()
    existing.touch()

    rendered = render(project_slug="orders")

    assert rendered.returncode == 1
    assert 'orders" directory already exists' in rendered.stdout
    assert (rendered.stdout + rendered.stderr).count("\n") == 1
    assert [*existing.parent.iterdir()] == [existing]


def test_typed_answers_are_rendered_unchanged(render: Render, tmp_path: Path) -> None:
    name, description = "{{ 7 * 7 }} # {% if %}", 'He said "{# no #}" \\n'
    choices = ["1"] * 6
    rendered = render(
        typed="\n".join([name, "orders", description, "Ada", "a@b.org", *choices, ""])
    )

    assert rendered.returncode == 0, rendered.stderr
    assert title_and_description(tmp_path / "orders") == (name, description)


def test_first_question_is_a_sentence(render: Render) -> None:
    asked = render(typed="")

    assert "[1/11] What is the name of the service? (Example Service)" in asked.stdout


def test_default_author_comes_from_git(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text("[user]\nname = Zoë Ada\nemail = zoe@example.org\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    render()

    assert author(tmp_path / "example-service") == ("Zoë Ada", "zoe@example.org")


def test_default_author_is_a_placeholder_if_git_has_no_valid_one(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text("[user]\nemail = root@localhost\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    render()

    assert author(tmp_path / "example-service") == ("Your Name", "you@example.com")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Order Service", "order-service"),
        ("Überweisungen & Co.", "uberweisungen-co"),
        ("3D Shop", "d-shop"),
        ("JSON", "json"),
        ("COM1", "com1-service"),
        ("🦄", "service"),
        ("x" * 80, "x" * 63),
    ],
)
def test_slug_is_derived_from_the_name(
    render: Render, tmp_path: Path, name: str, slug: str
) -> None:
    rendered = render(project_name=name)

    assert rendered.returncode == 0, rendered.stderr
    assert [folder.name for folder in tmp_path.iterdir()] == [slug]


def test_answers_may_come_from_a_configuration(render: Render, tmp_path: Path) -> None:
    defaults = {"project_name": "Orders {{ 1 }}", "project_slug": "orders"}
    config = tmp_path / "config.yaml"
    folders = {"cookiecutters_dir": str(tmp_path / "c"), "replay_dir": str(tmp_path / "r")}
    config.write_text(yaml.safe_dump(folders | {"default_context": defaults}))

    assert render(config=config).returncode == 0
    assert title_and_description(tmp_path / "orders")[0] == "Orders {{ 1 }}"


def test_answers_may_be_replayed(render: Render, tmp_path: Path) -> None:
    render(project_name="Orders {{ 1 }}", project_slug="orders")
    first = (tmp_path / "orders" / "pyproject.toml").read_text()
    shutil.rmtree(tmp_path / "orders")

    replayed = render("--replay")

    assert replayed.returncode == 0, replayed.stderr
    assert (tmp_path / "orders" / "pyproject.toml").read_text() == first
    assert title_and_description(tmp_path / "orders")[0] == "Orders {{ 1 }}"


EDITS = [
    ('"orders"', '"Orders"', f"project_slug='Orders' {SLUG}"),
    ('"github"', '"jenkins"', "ci='jenkins' must be one of 'github', 'gitlab', 'none'."),
]


@pytest.mark.parametrize("edit", EDITS)
def test_replayed_answer_is_refused_too(
    render: Render, tmp_path: Path, cookiecutter_config: Path, edit: tuple[str, str, str]
) -> None:
    answer, edited, complaint = edit
    render(project_slug="orders")
    shutil.rmtree(tmp_path / "orders")
    replays = cookiecutter_config.parent.glob("replay/template*.json")
    replay = max(replays, key=lambda path: path.stat().st_mtime)  # the file of this test
    replay.write_text(replay.read_text().replace(answer, edited))

    replayed = render("--replay")

    assert replayed.returncode == 1
    assert complaint in replayed.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["{{ 1 }} cookiecutter", "{{ cookiecutter.author_name }}", "{{ cookiecutter is }}"]
)
def test_answer_that_mentions_cookiecutter_is_plain_text(
    render: Render, tmp_path: Path, text: str
) -> None:
    render(project_slug="orders", description=text)

    assert title_and_description(tmp_path / "orders")[1] == text


def test_template_may_come_from_a_zip(render: Render, template: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "x"), "zip", template.parent, template.name)

    assert render(template=tmp_path / "x.zip").returncode == 0
    assert (tmp_path / "example-service" / "LICENSE").exists()


def test_template_may_come_from_a_repository(
    render: Render, template: Path, tmp_path: Path
) -> None:
    repository = shutil.copytree(template, tmp_path / "template.git")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=Ada", "-c", "user.email=a@b.org", "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", *command], check=True, cwd=repository)

    rendered = render(template=repository.as_uri())

    assert rendered.returncode == 0, rendered.stderr


def test_every_choice_has_a_label_and_every_question_a_sentence(template: Path) -> None:
    prompts = json.loads((template / "cookiecutter.json").read_text())["__prompts__"]
    for question, answers in QUESTIONS.items():
        prompt = prompts[question]
        if isinstance(answers, list):
            assert prompt.keys() - {"__prompt__"} == set(answers)
            prompt = prompt["__prompt__"]
        assert prompt.endswith("?")


def test_every_path_in_the_template_is_valid_on_windows(template: Path) -> None:
    for path in template.rglob("*"):
        assert not path.is_symlink(), path
        assert path.stem.lower() not in {"con", "prn", "aux", "nul"}, path
        assert not set(path.name) & set('<>:"|?*\\'), path
    names = [str(path.relative_to(template)).lower() for path in (template / SERVICE).rglob("*")]
    assert len(names) == len(set(names))
    assert {hook.suffix for hook in (template / "hooks").iterdir()} == {".py"}


def title_and_description(project: Path) -> tuple[str, str]:
    strings = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse((project / "app/__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return strings["TITLE"], strings["DESCRIPTION"]


def author(project: Path) -> tuple[str, str]:
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return metadata["authors"][0]["name"], metadata["authors"][0]["email"]
