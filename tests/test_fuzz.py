"""Random answers are refused in one sentence, or rendered unchanged into files that parse.

Only the files that depend on answers are rendered.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import IN_MEMORY, files
from tests.test_answers import author, title_and_description
from tests.test_render import parse

pytestmark = pytest.mark.full

Answers = dict[str, str]

RUFF = str(Path(sys.executable).with_name("ruff"))

EXAMPLES = 300
LEAST_RENDERED = 100

# Text with a meaning in Jinja, in a shell, or in a language whose files contain answers.
WORDS = """
    {{ }} {{7*7}} {{cookie}} {% %} {%if+x%} {# #} {%raw%} ' " \"\"\" ''' \\ \\n \\u0000 \\x ` ``` $ ${x} $(x) %s {x}
    # #{% : - & * ! | > < <b> <!-- --> [ ] @ --- , ; ~ / ../ Zoë 🦄 مرحبا null true 0 a B
"""
SIGNS = [*WORDS.split(), " ", "  ", " #", ": ", "- ", "# {%", "# {% if x %}", "# {% endraw %}"]
# Right-to-left, zero-width and look-alike characters.
SIGNS += ["\N{RIGHT-TO-LEFT OVERRIDE}", "\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH JOINER}", "\xa0"]
SIGNS += ["\N{EN DASH}", "\N{CYRILLIC SMALL LETTER A}", "\N{FULLWIDTH DIGIT ONE}"]
BAD_SIGNS = [
    "\n",
    "\r",
    "\t",
    "\x00",
    "\x1b",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ufffe",
    "\ud800",
]

texts = st.one_of(
    st.lists(st.sampled_from(SIGNS), min_size=1, max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=40),
)
bad_texts = st.one_of(
    st.text(max_size=40), st.lists(st.sampled_from(BAD_SIGNS + SIGNS)).map("".join)
)
slugs = st.from_regex(r"[a-z][a-z0-9]{0,20}(-[a-z0-9]{1,9}){0,3}", fullmatch=True)
bad_slugs = st.sampled_from(["", ".", "..", "/", "a/b", "a\\b", "con", "nul", "~", "x" * 64])
emails = st.from_regex(
    r"[a-z0-9.!#$%&'*+=?^_{|}~-]{1,20}@[a-z]{1,9}(\.[a-z]{1,5}){1,2}", fullmatch=True
)

answers = st.one_of(
    st.fixed_dictionaries(
        {"project_name": texts, "description": texts, "author_name": texts},
        optional={"project_slug": slugs, "author_email": emails},
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "project_name": bad_texts,
            "project_slug": st.one_of(bad_slugs, bad_texts),
            "description": bad_texts,
            "author_name": bad_texts,
            "author_email": st.one_of(st.emails(), bad_texts),
        },
    ),
)


def test_answers_are_refused_or_shown(
    varying: Path,
    cookiecutter_config: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")  # without git, which would double the time
    default = Path(
        cookiecutter(
            str(varying),
            config_file=str(cookiecutter_config),
            no_input=True,
            output_dir=str(tmp_path),
        )
    )
    plain = {path.relative_to(default): path.read_bytes() for path in files(default)}
    rendered = 0

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(answers)
    def render(answers: Answers) -> None:
        nonlocal rendered
        with TemporaryDirectory(dir=IN_MEMORY) as parent:
            target = Path(parent, "projects")
            target.mkdir()
            try:
                cookiecutter(
                    str(varying),
                    config_file=str(cookiecutter_config),
                    extra_context=answers,
                    no_input=True,
                    output_dir=str(target),
                )
            except FailedHookException:
                assert_refused_in_one_sentence(answers, capfd.readouterr().err)
                assert not list(target.iterdir())
            else:
                [project] = target.iterdir()
                assert_shown(answers, project)
                assert_changed_files_parse_and_pass_ruff(project, plain)
                rendered += 1
            assert list(Path(parent).iterdir()) == [target]

    render()
    assert rendered >= LEAST_RENDERED


def assert_refused_in_one_sentence(answers: Answers, message: str) -> None:
    question, _, complaint = message.partition("=")
    if question in answers:  # otherwise its value is derived from an answer
        assert complaint.startswith(f"{answers[question]!r} must be")
    assert " must be " in complaint
    assert complaint.count("\n") == 1


def assert_shown(answers: Answers, project: Path) -> None:
    title, description = title_and_description(project)
    author_name, author_email = author(project)
    shown = {
        "project_name": title,
        "project_slug": project.name,
        "description": description,
        "author_name": author_name,
        "author_email": author_email,
    }
    assert answers == {question: shown[question] for question in answers}
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert title in readme
    assert description in readme


def assert_changed_files_parse_and_pass_ruff(project: Path, plain: dict[Path, bytes]) -> None:
    assert plain.keys() == {path.relative_to(project) for path in files(project)}
    for path in files(project):
        if path.read_bytes() != plain[path.relative_to(project)]:
            parse(path, path.read_text(encoding="utf-8"))
    for arguments in ("format --check", "check"):
        command = [RUFF, *arguments.split(), "--no-cache", "app/__init__.py"]
        subprocess.run(command, check=True, cwd=project, stdout=subprocess.DEVNULL)
