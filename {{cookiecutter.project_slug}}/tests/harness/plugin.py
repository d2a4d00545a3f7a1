"""pytest on several kinds of databases: --db, the server of the run, and its line in the header.

A test that asks for `backend`, as all do that use a database, runs on SQLite and on PostgreSQL. A test
that needs a certain kind of database has its marker: @pytest.mark.sqlite or @pytest.mark.postgresql.
"""

import gc
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.harness.backends import KINDS
from tests.harness.connections import forget_libpq
from tests.harness.launch import launch
from tests.harness.postgresql import Server

SECONDS_TO_STOP = 60.0  # after which the run does not wait any longer for its server's end

address = pytest.StashKey[dict[str, Any]]()
keeper = pytest.StashKey[subprocess.Popen[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--db", choices=KINDS, help="test on this kind of database only")
    parser.addini("postgres_image", "what Testcontainers runs, unless POSTGRES_IMAGE is set")


def pytest_configure(config: pytest.Config) -> None:
    for kind in KINDS:
        config.addinivalue_line("markers", f"{kind}: tests on {kind}; as a mark, only there")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        of_routes = metafunc.definition.path.parent.name == "routers"
        kinds = _kinds(metafunc.definition) or [*KINDS][: None if of_routes else 2]
        marked = [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in kinds]
        metafunc.parametrize("backend", marked, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if chosen := config.getoption("db"):
        others = [item for item in items if chosen not in (_runs_on(item) or [chosen])]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays, so that a collection after each test costs little."""
    gc.collect()
    gc.freeze()


def _runs_on(item: pytest.Item) -> list[str]:
    """Return the kind of database that a test runs on, or those of its marks if it asks for none."""
    call = getattr(item, "callspec", None)
    kind = call and call.params.get("backend")
    return [kind] if kind else _kinds(item)


def _kinds(node: pytest.Item) -> list[str]:
    names = {mark.name for mark in node.iter_markers()}
    return [kind for kind in KINDS if kind in names]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the server, or find it: once for all workers, and before the header is written."""
    config = session.config
    if hasattr(config, "workerinput"):
        config.stash[address] = config.workerinput["postgresql"]
    elif config.getoption("db") == "sqlite" or config.getoption("collectonly"):
        config.stash[address] = {}
    else:
        config.stash[address] = _start(config)
    if not config.stash[address].get("is_borrowed"):
        forget_libpq()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the server is."""
    node.workerinput["postgresql"] = node.config.stash[address]


def pytest_report_header(config: pytest.Config) -> list[str]:
    chosen = config.getoption("db")
    server, lite = config.stash[address].get("name"), f"SQLite {sqlite3.sqlite_version}"
    lines = [f"database: {server}"] if server else []
    if chosen in {None, "sqlite"}:
        lines.append(f"database: {lite}")
    return lines


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take leave of the server, and wait until it has gone; not for one that has yet to come."""
    process = config.stash.get(keeper, None)
    if process and config.stash.get(address, None):
        process.communicate("done\n", timeout=SECONDS_TO_STOP)
    elif process:
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe
            pipe.close()
        process.wait(SECONDS_TO_STOP)  # for what has only launched it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the server's password out of a report, in which a traceback shows arguments."""
    report = yield
    password = urlsplit(item.config.stash[address].get("url", "")).password
    if password and report.longrepr:
        spellings = {password, unquote(password), repr(unquote(password))[1:-1]}
        secret = "|".join(re.escape(spelling) for spelling in spellings)
        secret = rf"(?<=['\":])({secret})(?=['\"@])"
        if re.search(secret, shown := str(report.longrepr)):
            report.longrepr = re.sub(secret, "***", shown)
        report.sections = [(name, re.sub(secret, "***", text)) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def postgresql(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The server of the run, as this process uses it."""
    where = pytestconfig.stash[address]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    server = Server(where["url"], where["prefix"], worker)
    yield server
    server.close()


def _start(config: pytest.Config) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.harness.keeper", config.getini("postgres_image")]
    process = config.stash[keeper] = launch(*command)
    assert process.stdout
    assert process.stderr
    for line in process.stdout:
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise pytest.UsageError(said["error"])
        if "url" in said:
            return said
        _write(config, said["doing"])
    raise pytest.UsageError(f"{' '.join(command)} has died:\n{process.stderr.read()}")


def _write(config: pytest.Config, line: str) -> None:
    """Say what is going on, now: it may take a while."""
    if reporter := config.pluginmanager.get_plugin("terminalreporter"):
        reporter.write_line(line)
