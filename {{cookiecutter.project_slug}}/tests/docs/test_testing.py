"""Tests docs/testing.md: runs the tests that it shows with pytest, in a copy of the service."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, find_snippet, snippets

TITLES = [snippet.title or "" for snippet in snippets(ROOT / "docs" / "testing.md")]
FILES = [title for title in TITLES if title.endswith(".py")]
CRASH = "tests/test_crash.py"
ROUTE = "app/routers/count.py"

LEAKS = "tests/test_leak.py"
# `kept.clear()` runs before the server is queried for open connections, which would wait for seconds.
LEAK = """
from collections.abc import Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import get_engine
from tests.harness.backends import Backend
from tests.support import new_user


@pytest.fixture
def kept(backend: Backend) -> Iterator[list[AsyncSession]]:
    kept: list[AsyncSession] = []
    yield kept
    kept.clear()


async def test_leak(kept: list[AsyncSession], databases: None) -> None:
    session = AsyncSession(get_engine())
    session.add(new_user())
    await session.flush()
    kept.append(session)
"""

# The lines that include a router in app/main.py; the router of the README is added in the same way.
INCLUDED = [
    "from app.routers.users import router as users\n",
    "    app.include_router(users, prefix=API_PREFIX)\n",
]

Run = Callable[..., str]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the service with the files of the page."""
    copy = tmp_path / "copy"
    for folder in ("app", "tests"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / ROUTE).write_text(find_snippet("a route").source)
    main = copy / "app" / "main.py"
    source = main.read_text()
    for line in INCLUDED:
        assert line in source
        source = source.replace(line, line + line.replace("users", "count"))
    main.write_text(source)
    for title in FILES:
        (copy / title).write_text(find_snippet(title).source)
    return copy


@pytest.fixture
def run(copy: Path, new_database: str) -> Run:
    """A function that runs tests of the copy on databases of their own and returns the report."""

    def run(*arguments: str) -> str:
        """Run them on SQLite and on PostgreSQL."""
        variables = {**os.environ, "PYTHONPATH": str(copy), "TEST_DATABASE_URL": new_database}
        for name in ("PYTEST_ADDOPTS", "TEST_POSTGRES"):
            variables.pop(name, None)
        pytest = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-m=not pgbouncer"]
        ended = subprocess.run(
            [*pytest, *arguments],
            capture_output=True,
            check=False,
            cwd=copy,
            env=variables,
            text=True,
        )
        print(ended.stdout, ended.stderr)  # noqa: T201, shown if the test fails
        return ended.stdout

    return run


@pytest.mark.postgresql
def test_tests_of_the_page_pass_and_a_leak_shows_its_line(run: Run, copy: Path) -> None:
    with (copy / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(find_snippet("print where a connection is taken").source)
    (copy / LEAKS).write_text(LEAK)

    others = [title for title in FILES if title != CRASH]
    # Two runs: a test after the leak would get the warning about the connection at its setup.
    report = run(*others, LEAKS, f"--deselect={LEAKS}::test_leak[sqlite]")
    report += run(LEAKS, "--db=sqlite")

    for title in others:
        assert re.search(rf"^{title}::.* PASSED ", report, re.MULTILINE), title
        assert not re.search(rf"^(FAILED|ERROR) {title}", report, re.MULTILINE), title
    for kind in ("sqlite", "postgresql"):
        assert f"ERROR at teardown of test_leak[{kind}]" in report
    assert report.count("E   AssertionError: connections still checked out: ") == 2
    assert report.count("in test_leak\n    await session.flush()\n") >= 2


@pytest.mark.load
@pytest.mark.postgresql
def test_crash_test_of_the_page_passes(run: Run) -> None:
    assert re.search(rf"^{CRASH}::.* (PASSED|SKIPPED) ", run(CRASH), re.MULTILINE)
