"""The tests of a rendered service pass after ordinary edits, one group at a time and all together."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import REFERENCE, Bake, make
from tests.edits import EDITS, NEEDS, Edit, add_greeting, append, remove_events, replace
from tests.servers import NO_DOCKER, run_python

pytestmark = pytest.mark.full

QUIET = ("-q", "-p", "no:cacheprovider", "--no-header", "--tb=short")
FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/[^\s\[]+)", re.M)

# The tests of the reference that read the application, its routes, tables and settings.
OF_REFERENCE = [
    *("tests/conformance/routers", "tests/conformance/core/web", "tests/conformance/models"),
    *("tests/conformance/test_lazy.py", "tests/conformance/core/test_config.py"),
    *("tests/docs/test_readme.py", "tests/docs/test_sessions.py", "tests/docs/test_pages.py"),
]


def copy(project: Path, folder: Path) -> Path:
    """Copy the project without its environment. Times are kept, so that make installs nothing."""
    ignored = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", ".*_cache")
    return Path(shutil.copytree(project, folder / "service", ignore=ignored))


def edited(project: Path, folder: Path, edits: list[Edit]) -> Path:
    service = copy(project, folder)
    for edit in edits:
        edit(service)
    return service


def run_tests(project: Path, service: Path, *arguments: str) -> str:
    """Run tests of the service in the environment of the project. Return the report if they fail."""
    variables = {"PYTHONPATH": str(service), **NO_DOCKER}
    command = ("-m", "pytest", *QUIET, *arguments)
    ended = run_python(project, *command, folder=service, **variables)
    return ended.stdout + ended.stderr if ended.returncode else ""


def find_cause(project: Path, folder: Path, edits: list[Edit], report: str) -> str:
    """Run the failed tests again with each edit alone. Return the names of the edits that break them."""
    failed = {*FAILED.findall(report)}
    causes = []
    for edit in edits:
        alone = folder / edit.__name__
        service = edited(project, alone, [NEEDS[edit], edit] if edit in NEEDS else [edit])
        tests = [test for test in failed if (service / test.partition("::")[0]).exists()]
        if not failed or (tests and run_tests(project, service, "--db=sqlite", *tests)):
            causes.append(edit.__name__)
    return ", ".join(causes) or f"only together: {', '.join(edit.__name__ for edit in edits)}"


@pytest.mark.parametrize("group", [name for name in EDITS if name != "all"])
def test_suite_passes_after_edits(project: Path, folder: Path, tmp_path: Path, group: str) -> None:
    service = edited(project, folder / f"edited-{group}", EDITS[group])

    report = run_tests(project, service, "-n2", "--db=sqlite")

    assert not report, f"{report}\nedits: {find_cause(project, tmp_path, EDITS[group], report)}"


def test_check_and_suite_pass_on_both_databases_after_all_edits(
    project: Path, folder: Path, tmp_path: Path
) -> None:
    service = edited(project, folder / "edited-all", EDITS["all"])
    environment = [f"BIN={project}/.venv/bin", f"READY={project}/.venv/ready"]
    make(service, "format", "check", *environment)

    report = run_tests(project, service, "-n2")

    assert not report, f"{report}\nedits: {find_cause(project, tmp_path, EDITS['all'], report)}"


def test_reference_passes_after_edits(project: Path, bake: Bake, tmp_path: Path) -> None:
    service = bake(contents=REFERENCE)
    edits = [edit for edit in EDITS["all"] if edit is not remove_events]  # cruft removes them there
    for edit in edits:
        edit(service)

    report = run_tests(project, service, "-n2", "--db=sqlite", *OF_REFERENCE)

    assert not report


def forget_example(project: Path) -> None:
    add_greeting(project)
    replace(project / ".env.example", "GREETING=Hello\n", "")


def block(project: Path) -> None:
    append(
        project / "app/routers/users.py",
        '\n\n@router.get("/{user_id}/name")\ndef get_name(user_id: UUID) -> str:\n'
        "    return str(user_id)\n",
    )


MISTAKES = [
    (
        forget_example,
        "tests/core/test_config.py",
        "add to .env.example a line NAME=default and a comment for: ['GREETING']",
    ),
    (
        block,
        "tests/conformance/routers/test_threads.py",
        "/users/{user_id}/name runs get_name of app.routers.users in a thread: write it as `async def`",
    ),
]


@pytest.mark.parametrize(("mistake", "test", "message"), MISTAKES)
def test_failure_says_what_to_do(
    project: Path, bake: Bake, mistake: Edit, test: str, message: str
) -> None:
    service = bake(contents=REFERENCE)
    mistake(service)

    report = run_tests(project, service, "-n0", "--db=sqlite", test)

    assert message in report
