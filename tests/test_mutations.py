"""The tests detect each mutation in tests/mutations.py.

Those of a mutation that needs PgBouncer or a replica are in the reference, all others in the service.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.mutations import SESSIONS, Mutation
from tests.servers import ForkServer, external_server

pytestmark = pytest.mark.full

Outcome = subprocess.CompletedProcess[str]


def in_reference(mutation: Mutation) -> bool:
    return mutation.broken.startswith("conformance/")


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, project: Path, reference: Path, folder: Path
) -> Iterator[dict[str, Future[Outcome]]]:
    """The test run of each selected mutation. They run in parallel, each on a copy of the service."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    parameters = (value for call in calls if call for value in call.params.values())
    chosen = [value for value in parameters if isinstance(value, Mutation)]
    free: SimpleQueue[tuple[ForkServer, Path]] = SimpleQueue()

    def run(mutation: Mutation) -> Outcome:
        server, copies = free.get()
        copy = copies / ("reference" if in_reference(mutation) else "service")
        try:
            with mutation.applied(copy):
                tests = ["-x", "-q", f"--db={mutation.kind}", f"tests/{mutation.broken}"]
                return server.pytest(*tests, folder=copy, TEST_DATABASE_URL=url)
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
        yield {mutation.name: executor.submit(run, mutation) for mutation in chosen}


@pytest.mark.parametrize("mutation", SESSIONS, ids=lambda mutation: mutation.name)
def test_mutation_is_detected(
    reference: Path, outcomes: dict[str, Future[Outcome]], mutation: Mutation
) -> None:
    ended = outcomes[mutation.name].result()
    print(ended.stdout)

    assert ended.returncode == 1
    assert re.search(rf"^(FAILED|ERROR) tests/{mutation.broken}::test_", ended.stdout, re.MULTILINE)
    assert f"(../tests/{mutation.broken})" in (reference / "docs/sessions.md").read_text()
