"""The tests that docs/testing.md shows, under a pytest of their own in a copy of the service."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, find_snippet, snippets
from tests.harness.backends import Backend

TITLES = [snippet.title or "" for snippet in snippets(ROOT / "docs" / "testing.md")]
FILES = [title for title in TITLES if title.endswith(".py")]
CRASH = "tests/test_crash.py"
ROUTE = "app/routers/count.py"

# What it keeps is let go before the server is asked, which would wait for seconds.
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


async def test_that_leaks(kept: list[AsyncSession], databases: None) -> None:
    session = AsyncSession(get_engine())
    session.add(new_user())
    await session.flush()
    kept.append(session)
"""

# What mounts a router in app/main.py, which the one of the README is mounted beside.
MOUNTED = ["from app.routers.users import router as users\n", "    app.include_router(users)\n"]

Run = Callable[..., str]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the service that has the files of the page."""
    copy = tmp_path / "copy"
    for folder in ("app", "tests"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / ROUTE).write_text(find_snippet("a route").source)
    main = copy / "app" / "main.py"
    source = main.read_text()
    for line in MOUNTED:
        assert line in source
        source = source.replace(line, line + line.replace("users", "count"))
    main.write_text(source)
    for title in FILES:
        (copy / title).write_text(find_snippet(title).source)
    return copy


@pytest.fixture
def run(copy: Path, backend: Backend, new_database: str) -> Run:
    """Run tests of the copy, on databases beside those of this run; return the report."""

    def run(*arguments: str) -> str:
        variables = {**os.environ, "PYTHONPATH": str(copy), "TEST_DATABASE_URL": new_database}
        for name in ("PYTEST_ADDOPTS", "TEST_POSTGRES"):
            variables.pop(name, None)
        pytest = [sys.executable, "-m", "pytest", "-v", "--tb=short", f"--db={backend.kind}"]
        ended = subprocess.run(
            [*pytest, *arguments],
            capture_output=True,
            check=False,
            cwd=copy,
            env=variables,
            text=True,
        )
        print(ended.stdout, ended.stderr)  # noqa: T201, for the report of a test that fails
        return ended.stdout

    return run


def test_tests_pass_and_a_leak_shows_where_it_began(run: Run, copy: Path) -> None:
    with (copy / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(find_snippet("print where a connection is taken").source)
    (copy / "tests" / "test_leak.py").write_text(LEAK)

    others = [title for title in FILES if title != CRASH]
    report = run(*others, "tests/test_leak.py")

    for title in others:
        assert re.search(rf"^{title}::.* PASSED ", report, re.MULTILINE), title
        assert not re.search(rf"^(FAILED|ERROR) {title}", report, re.MULTILINE), title
    assert re.search(r"ERROR at teardown of test_that_leaks\[", report)
    assert "AssertionError: connections still checked out: " in report
    assert "in test_that_leaks\n    await session.flush()\n" in report


@pytest.mark.load
@pytest.mark.postgresql
def test_test_of_a_crash_passes(run: Run) -> None:
    assert re.search(rf"^{CRASH}::.* (PASSED|SKIPPED) ", run(CRASH), re.MULTILINE)
