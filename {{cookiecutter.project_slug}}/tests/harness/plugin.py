"""A pytest plugin: runs tests on several kinds of databases and starts the server of the run.

- A test that uses `backend`, directly or through another fixture, runs on SQLite and on PostgreSQL.
- A test with @pytest.mark.sqlite or @pytest.mark.postgresql runs on that kind only.
- `--db=sqlite` or `--db=postgresql` selects the tests on that kind.
- A few chosen tests (by node id, `-k` or `--lf`) run in one process: a worker starts in a second or two.
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
from tests.harness.connections import clear_libpq_environment
from tests.harness.external import external_url
from tests.harness.launch import launch
from tests.harness.postgresql import Server

SECONDS_TO_STOP = 60.0  # that the run waits for its server to stop

keeper = pytest.StashKey[subprocess.Popen[str]]()
address = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--db", choices=KINDS, help="run tests on this kind of database only")
    parser.addini("postgres_image", "image for Testcontainers; POSTGRES_IMAGE overrides it")


def pytest_configure(config: pytest.Config) -> None:
    for kind in KINDS:
        config.addinivalue_line("markers", f"{kind}: run this test on {kind} only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        is_route = metafunc.definition.path.parent.name == "routers"
        kinds = _kinds(metafunc.definition) or [*KINDS][: None if is_route else 2]
        marked = [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in kinds]
        metafunc.parametrize("backend", marked, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if chosen := config.getoption("db"):
        others = [item for item in items if chosen not in (_runs_on(item) or [chosen])]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def _runs_on(item: pytest.Item) -> list[str]:
    """Return the kind that a test is parametrized with, or the kinds of its marks."""
    call = getattr(item, "callspec", None)
    kind = call and call.params.get("backend")
    return [kind] if kind else _kinds(item)


def _kinds(node: pytest.Item) -> list[str]:
    names = {mark.name for mark in node.iter_markers()}
    return [kind for kind in KINDS if kind in names]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    keyword = config.getoption("keyword")
    few = keyword and "not " not in keyword
    few = few or config.getoption("lf", False) or all("::" in argument for argument in config.args)
    return 0 if few else None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the keeper, once for all workers. The server starts while pytest collects the tests."""
    config = session.config
    if hasattr(config, "workerinput"):
        config.stash[address] = config.workerinput["postgresql"]
    elif config.getoption("db") != "sqlite" and not config.getoption("collectonly"):
        image = config.getini("postgres_image")
        config.stash[keeper] = launch(sys.executable, "-m", "tests.harness.keeper", image)
    if not external_url():
        clear_libpq_environment()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Send the server's address to a worker of pytest-xdist."""
    node.workerinput["postgresql"] = _address(node.config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Wait for the server, unless all tests run on SQLite."""
    if any(map(_needs_server, session.items)):
        _address(session.config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    shown = config.getoption("db") in {None, "sqlite"}
    return [f"database: SQLite {sqlite3.sqlite_version}"] if shown else []


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the server and wait until it has stopped. Do not wait for a server that is starting."""
    gc.freeze()  # otherwise Python looks for garbage for half a second when it exits
    process = config.stash.get(keeper, None)
    if process and config.stash.get(address, None):
        process.communicate("done\n", timeout=SECONDS_TO_STOP)
    elif process:
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe
            pipe.close()
        process.wait(SECONDS_TO_STOP)  # only for the launching process


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace the server's password in a report: tracebacks show arguments."""
    report = yield
    password = urlsplit(item.config.stash.get(address, {}).get("url", "")).password
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
    """The PostgreSQL server of the run, for the tests of this process."""
    where = _address(pytestconfig)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    server = Server(where["url"], where["prefix"], worker)
    yield server
    server.close()


def _needs_server(item: pytest.Item) -> bool:
    return any(kind != "sqlite" for kind in _runs_on(item)) or (
        "postgresql" in getattr(item, "fixturenames", ())
    )


def _address(config: pytest.Config) -> dict[str, Any]:
    """Return the address of the server, which may start first. Empty if the run has no server."""
    if keeper in config.stash and address not in config.stash:
        config.stash[address] = _wait_for_server(config)
    return config.stash.setdefault(address, {})


def _wait_for_server(config: pytest.Config) -> dict[str, Any]:
    process = config.stash[keeper]
    assert process.stdout
    assert process.stderr
    for line in process.stdout:
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise pytest.UsageError(message["error"])
        if "url" in message:
            if config.get_verbosity() >= 0:
                _write(config, f"database: {message['name']}")
            return message
        _write(config, message["doing"])
    raise pytest.UsageError(
        f"tests.harness.keeper has exited without a server:\n{process.stderr.read()}"
    )


def _write(config: pytest.Config, line: str) -> None:
    """Print the line at once: the next step may take a while."""
    if reporter := config.pluginmanager.get_plugin("terminalreporter"):
        reporter.ensure_newline()
        reporter.write_line(line)
