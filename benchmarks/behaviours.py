"""Compares how the service and its alternatives behave when something goes wrong.

Each project is used as its own documentation shows, on a real PostgreSQL and a real socket. The routes
are in contenders/behaviours/. The results are stored in behaviours.json, and as a table in the README of
the template.
"""

import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple
from uuid import uuid4

from benchmarks import report
from benchmarks.compare import (
    CONTENDERS,
    PSYCOPG,
    Contender,
    contender,
    named,
    pythons_of,
    versions_of,
)
from benchmarks.environment import ROOT, PostgreSQL, Service, Sql, postgresql, service, sql
from benchmarks.load import require_two_cores
from benchmarks.processes import Serving

README = ROOT / "README.md"
FIGURES = ROOT / "benchmarks" / "behaviours.json"

MARKED = re.compile(r"(?<=<!-- behaviours -->\n).*(?=<!-- behaviours end -->)", re.DOTALL)

PROJECTS = {
    "service": CONTENDERS["service"],
    "bare": CONTENDERS["bare"],
    "dbwarden_get_session": CONTENDERS["dbwarden_get_session"],
    "fastapi_utils_sessionmaker": CONTENDERS["fastapi_utils_sessionmaker"],
    "sqlmodel_sync": CONTENDERS["sqlmodel_sync"],
    "advanced_alchemy_autocommit": CONTENDERS["advanced_alchemy_autocommit"],
    "fastapi_async_sqlalchemy": Contender(
        "fastapi-async-sqlalchemy", ("fastapi-async-sqlalchemy",)
    ),
    "fastapi_sqlalchemy": Contender("fastapi-sqlalchemy", ("fastapi-sqlalchemy", PSYCOPG)),
    "late_finally": Contender("FastAPI-template"),
}

TABLES = (
    "CREATE TABLE behaviours (token text)",
    "CREATE TABLE parents (token text PRIMARY KEY)",
    "CREATE TABLE refuses_to_commit (token text REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE commits_slowly (token text)",
    "CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON commits_slowly "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION be_slow()",
)

OF_CONTENDER = "datname = current_database() AND pid <> pg_backend_pid()"
SECONDS_TO_SETTLE = 5.0
SECONDS_TO_COMMIT = 1.0  # for projects that commit after the response
SECONDS_TO_RESPOND = 10.0
NO_RESPONSE = 0


class Seen(NamedTuple):
    holds: bool | None  # None: does not apply
    seen: str


class Running(NamedTuple):
    """A running contender and its database."""

    server: Serving
    sql: Sql

    def status(self, method: str, path: str) -> int:
        return self.request(method, path)[0]

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        """Return the status and the body, or NO_RESPONSE and an empty body."""
        with suppress(OSError, HTTPException):
            return self.server.request(method, f"/behaviours/{path}", timeout=SECONDS_TO_RESPOND)
        return NO_RESPONSE, b""

    def get_concurrently(self, number: int, path: str) -> int:
        """Send this number of GET requests at once. Return how many responses have status 200."""
        together = Barrier(number)

        def get(_: int) -> int:
            together.wait()
            return self.status("GET", path)

        with ThreadPoolExecutor(number) as pool:
            return [*pool.map(get, range(number))].count(200)

    @contextmanager
    def disconnecting(self, path: str) -> Iterator[None]:
        """Send a POST request, and disconnect at the end of the block."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as client:
            head = (
                f"POST /behaviours/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            )
            client.sendall(head.encode())
            yield

    def count(self, source: str) -> int:
        return int(self.sql(f"SELECT count(*) FROM {source}")[0][0])

    def stored(self, token: str) -> int:
        """Count the rows with this token. Wait up to a second for a commit after the response."""
        self.until(lambda: self.count(f"behaviours WHERE token = '{token}'") > 0, SECONDS_TO_COMMIT)
        return self.count(f"behaviours WHERE token = '{token}'")

    def is_settled(self) -> bool:
        """Wait until no connection is in a transaction. Return False after SECONDS_TO_SETTLE."""
        busy = f"pg_stat_activity WHERE {OF_CONTENDER} AND xact_start IS NOT NULL"
        return self.until(lambda: self.count(busy) == 0, SECONDS_TO_SETTLE)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _commits_on_success(running: Running) -> Seen:
    token = uuid4().hex
    status = running.status("POST", f"write/{token}")
    rows = running.stored(token)
    return Seen(rows == 1, _describe(status, rows))


def _commits_before_the_response(running: Running) -> Seen:
    token = uuid4().hex
    status = running.status("POST", f"slow-commit/{token}")
    rows = running.count(f"commits_slowly WHERE token = '{token}'")
    return Seen(rows == 1, _describe(status, rows))


def _failed_commit_returns_an_error(running: Running) -> Seen:
    status = running.status("POST", f"failing-commit/{uuid4().hex}")
    return Seen(status >= 400, f"{status}")


def _swallowed_error_loses_no_write_silently(running: Running) -> Seen:
    token = uuid4().hex
    status = running.status("POST", f"swallow/{token}")
    rows = running.stored(token)
    return Seen(status >= 400 or rows == 1, _describe(status, rows))


def _rolls_back(path: str, running: Running) -> Seen:
    token = uuid4().hex
    status = running.status("POST", f"{path}/{token}")
    if status == 404:
        return Seen(None, "its routes run in threads, which cannot be cancelled")
    rows = running.stored(token)
    return Seen(rows == 0 and running.is_settled(), _describe(status, rows))


def _client_disconnect_rolls_back(running: Running) -> Seen:
    token = uuid4().hex
    asleep = (
        f"pg_stat_activity WHERE {OF_CONTENDER} AND state = 'active' AND query LIKE '%pg_sleep%'"
    )
    with running.disconnecting(f"wait/{token}?seconds=2"):
        running.until(lambda: running.count(asleep) > 0, SECONDS_TO_SETTLE)
    start = time.monotonic()
    running.is_settled()
    seconds = time.monotonic() - start
    rows = running.stored(token)
    return Seen(rows == 0, f"{rows} rows stored, its transaction ended after {seconds:.1f} s")


def _client_disconnects_leak_no_connection(running: Running) -> Seen:
    when = random.Random(1)

    def disconnect(seconds: float) -> None:
        with suppress(OSError), running.disconnecting(f"wait/{uuid4().hex}?seconds=0.2"):
            time.sleep(seconds)

    for _ in range(5):
        with ThreadPoolExecutor(10) as pool:
            [*pool.map(disconnect, [when.uniform(0, 0.2) for _ in range(10)])]
    settled = running.is_settled()
    good = running.get_concurrently(10, "read")
    return Seen(settled and good == 10, f"{good} of the next 10 succeed, settled: {settled}")


def _stale_connections_fail_no_request(running: Running) -> Seen:
    running.get_concurrently(10, "read?seconds=0.3")
    running.is_settled()
    # Some projects return a connection to the pool after the response. PostgreSQL does not show that.
    time.sleep(0.2)
    running.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OF_CONTENDER}")
    backends = f"pg_stat_activity WHERE {OF_CONTENDER} AND usesysid IS NOT NULL"
    running.until(lambda: running.count(backends) == 0, SECONDS_TO_SETTLE)
    good = running.get_concurrently(10, "read")
    return Seen(good == 10, f"{good} of 10 succeed")


def _stream_uses_the_session(running: Running) -> Seen:
    status, body = running.request("GET", "stream")
    settled = running.is_settled()
    return Seen(
        body == b"1\n1\n1\n" and settled, f"{status}, {len(body)} of 6 bytes, settled: {settled}"
    )


def _concurrent_requests_succeed(running: Running) -> Seen:
    good = running.get_concurrently(200, "read?seconds=0.2")
    return Seen(good == 200, f"{good} of 200 succeed")


def _describe(status: int, rows: int) -> str:
    return f"{status or 'no response'}, {rows} rows stored"


class Behaviour(NamedTuple):
    title: str
    see: Callable[[Running], Seen]
    alone: bool = False  # needs a new server process


BEHAVIOURS = {
    "commits_on_success": Behaviour("A route that writes needs no `commit()`", _commits_on_success),
    "commits_before_the_response": Behaviour(
        "A read after the response sees the write", _commits_before_the_response
    ),
    "failed_commit": Behaviour("A failed COMMIT returns an error", _failed_commit_returns_an_error),
    "swallowed_error": Behaviour(
        "A swallowed database error does not lose the write silently",
        _swallowed_error_loses_no_write_silently,
    ),
    "raised_error": Behaviour(
        "`raise HTTPException(409)` rolls back", partial(_rolls_back, "raise")
    ),
    "returned_error": Behaviour(
        "`return JSONResponse(…, 409)` rolls back", partial(_rolls_back, "return")
    ),
    "cancelled": Behaviour("A cancelled route rolls back", partial(_rolls_back, "cancel")),
    "client_disconnect": Behaviour(
        "A client disconnect cancels and rolls back the request", _client_disconnect_rolls_back
    ),
    "stale_connections": Behaviour(
        "No request fails on a stale connection", _stale_connections_fail_no_request
    ),
    "stream": Behaviour(
        "A streaming response can use the request's session", _stream_uses_the_session
    ),
    "client_disconnects": Behaviour(
        "50 client disconnects leak no connection",
        _client_disconnects_leak_no_connection,
        alone=True,
    ),
    "concurrent_requests": Behaviour(
        "200 concurrent requests succeed", _concurrent_requests_succeed, alone=True
    ),
}


def run() -> None:
    """Test all projects, or those in BENCH_ONLY. Only a run with all projects is published."""
    require_two_cores()
    names = named(PROJECTS)
    ours = service()
    pythons, failed = pythons_of({name: PROJECTS[name] for name in names}, ours)
    seen: dict[str, dict[str, dict[str, Any]]] = {}
    with postgresql(ours) as server, sql(ours, server.primary) as run_sql:
        run_sql(*TABLES)
        for name, python in pythons.items():
            print(PROJECTS[name].title, flush=True)
            try:
                seen[name] = _test(name, python, ours, server, run_sql)
            except RuntimeError as error:
                failed[name] = f"{error} (see behaviours.{name}.log)"
    figures = {
        "postgresql": server.version,
        "versions": {name: versions_of(PROJECTS[name], pythons[name]) for name in seen},
        "seen": seen,
    }
    report.show("does it hold?", *_cells(figures))
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    report.keep("behaviours", failed=failed, **figures)
    if seen.keys() == PROJECTS.keys():
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        README.write_text(MARKED.sub(lambda _: table(figures), README.read_text()))


def _test(
    name: str, python: Path, ours: Service, server: PostgreSQL, run_sql: Sql
) -> dict[str, dict[str, Any]]:
    seen: dict[str, Seen] = {}
    together = [key for key, behaviour in BEHAVIOURS.items() if not behaviour.alone]
    for keys in [together, *([key] for key, behaviour in BEHAVIOURS.items() if behaviour.alone)]:
        with contender(f"behaviours.{name}", python, ours, server) as serving:
            for key in keys:
                seen[key] = BEHAVIOURS[key].see(Running(serving, run_sql))
            if serving.process.poll() is not None:
                raise RuntimeError("the server has exited")
            serving.process.kill()  # a shutdown would wait for requests that wait for a connection
    return {key: seen[key]._asdict() for key in BEHAVIOURS}


def table(figures: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    return report.markdown(*_cells(figures))


def _cells(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    words = {True: "yes", False: "no", None: "-"}
    seen = figures["seen"]
    return ["", *(PROJECTS[name].title for name in seen)], [
        [behaviour.title, *(words[of[key]["holds"]] for of in seen.values())]
        for key, behaviour in BEHAVIOURS.items()
    ]
