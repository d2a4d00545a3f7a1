"""The service's own tests, without the reference, detect each mutation in tests/mutations.py."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mutations import SESSIONS, Mutation
from tests.servers import run_python

pytestmark = pytest.mark.full

Outcome = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, project: Path, folder: Path
) -> Iterator[dict[str, Future[Outcome]]]:
    """The test run of each selected mutation. They run in parallel."""

    def run(mutation: Mutation) -> Outcome:
        copy = folder / f"mutated-{SESSIONS.index(mutation)}"
        shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache"))
        mutation.apply(copy)
        arguments = ["-x", "-q", f"--db={mutation.kind}", f"tests/{mutation.broken}"]
        return run_python(
            project, "-m", "pytest", *arguments, folder=copy, TEST_POSTGRES="embedded"
        )

    calls = (getattr(item, "callspec", None) for item in request.session.items)
    parameters = (value for call in calls if call for value in call.params.values())
    chosen = [value for value in parameters if isinstance(value, Mutation)]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        yield {mutation.name: executor.submit(run, mutation) for mutation in chosen}


@pytest.mark.parametrize("mutation", SESSIONS, ids=lambda mutation: mutation.name)
def test_mutation_is_detected(
    project: Path, outcomes: dict[str, Future[Outcome]], mutation: Mutation
) -> None:
    ended = outcomes[mutation.name].result()
    print(ended.stdout, ended.stderr, sep="\n")

    assert ended.returncode == 1
    assert re.search(rf"^(FAILED|ERROR) tests/{mutation.broken}::test_", ended.stdout, re.MULTILINE)
    assert f"(../tests/{mutation.broken})" in (project / "docs/sessions.md").read_text()
