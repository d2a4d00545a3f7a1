"""The tests detect each mutation in tests/mutations.py.

Tests that need PgBouncer or a replica are in the reference, all others in the service.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.mutations import SESSIONS, Mutation
from tests.servers import ForkServer, external_server

pytestmark = pytest.mark.full

Outcome = subprocess.CompletedProcess[str]


KINDS = sorted({mutation.kind for mutation in SESSIONS})


def in_reference(mutation: Mutation) -> bool:
    return mutation.broken.startswith("conformance/")


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, project: Path, reference: Path, folder: Path
) -> Iterator[dict[str, Future[Outcome]]]:
    """The test run of each selected mutation. They run in parallel, each on a copy of the service."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    parameters = [value for call in calls if call for value in call.params.values()]
    chosen = [value for value in parameters if isinstance(value, Mutation)]
    kinds = [value for value in parameters if value in KINDS]
    free: SimpleQueue[tuple[ForkServer, Path]] = SimpleQueue()

    def run(mutation: Mutation) -> Outcome:
        with taken() as (server, copies):
            copy = copies / ("reference" if in_reference(mutation) else "service")
            with mutation.applied(copy):
                tests = ["-x", "-q", f"--db={mutation.kind}", f"tests/{mutation.broken}"]
                return server.pytest(*tests, folder=copy, TEST_DATABASE_URL=url)

    def run_without_a_mutation(kind: str) -> Outcome:
        files = sorted({f"tests/{m.broken}" for m in SESSIONS if m.kind == kind})
        with taken() as (server, copies):
            run = ("-q", f"--db={kind}", *files)
            return server.pytest(*run, folder=copies / "reference", TEST_DATABASE_URL=url)

    @contextmanager
    def taken() -> Iterator[tuple[ForkServer, Path]]:
        server, copies = free.get()
        try:
            yield server, copies
        finally:
            free.put((server, copies))

    with ExitStack() as stack:
        url = stack.enter_context(external_server(project, superuser=True))
        for number in range(os.cpu_count() or 1):
            copies = folder / f"mutated-{number}"
            for name, source in (("service", project), ("reference", reference)):
                ignored = shutil.ignore_patterns(".venv", ".git")
                shutil.copytree(source, copies / name, ignore=ignored)
            free.put((stack.enter_context(closing(ForkServer(project))), copies))
        executor = stack.enter_context(ThreadPoolExecutor(free.qsize()))
        running = {kind: executor.submit(run_without_a_mutation, kind) for kind in kinds}
        yield running | {mutation.name: executor.submit(run, mutation) for mutation in chosen}


@pytest.mark.parametrize("kind", KINDS)
def test_same_tests_pass_without_a_mutation(
    outcomes: dict[str, Future[Outcome]], kind: str
) -> None:
    """Otherwise an error of the environment would count as detected."""
    ended = outcomes[kind].result()

    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("mutation", SESSIONS, ids=lambda mutation: mutation.name)
def test_mutation_is_detected(
    reference: Path, outcomes: dict[str, Future[Outcome]], mutation: Mutation
) -> None:
    ended = outcomes[mutation.name].result()
    print(ended.stdout)

    assert ended.returncode == 1
    assert re.search(rf"^(FAILED|ERROR) tests/{mutation.broken}\b", ended.stdout, re.MULTILINE)
    file, _, _ = mutation.broken.partition("::")
    assert f"(../tests/{file})" in (reference / "docs/sessions.md").read_text()
