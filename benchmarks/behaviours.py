"""Behaviours: what the service and others do where something goes wrong, asked over a real socket.

Each runs as its own pages show it, on a real PostgreSQL; `contenders/behaving/` has the routes. What
is seen stands in behaviours.json beside this file, and its table in the README of the template.
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
from benchmarks.load import refuse_single_core
from benchmarks.processes import Serving

README = ROOT / "README.md"
FIGURES = ROOT / "benchmarks" / "behaviours.json"

MARKED = re.compile(r"(?<=<!-- behaviours -->\n).*(?=<!-- behaviours end -->)", re.DOTALL)

BEHAVING = {
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

CONTENDERS_OWN = "datname = current_database() AND pid <> pg_backend_pid()"
SECONDS_TO_SETTLE = 5.0
SECONDS_TO_COMMIT = 1.0  # for those who answer first
SECONDS_TO_ANSWER = 10.0
NO_ANSWER = 0


class Seen(NamedTuple):
    holds: bool | None  # None: it cannot be asked
    seen: str


class Running(NamedTuple):
    """One of the contenders, and what its database says of it."""

    server: Serving
    sql: Sql

    def ask(self, method: str, path: str) -> int:
        return self.answer(method, path)[0]

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        """Return the status and the body, or NO_ANSWER."""
        with suppress(OSError, HTTPException):
            return self.server.request(method, f"/behaviours/{path}", timeout=SECONDS_TO_ANSWER)
        return NO_ANSWER, b""

    def ask_at_once(self, number: int, path: str) -> int:
        """Ask so many times at once, and return how often the answer was good."""
        together = Barrier(number)

        def ask(_: int) -> int:
            together.wait()
            return self.ask("GET", path)

        with ThreadPoolExecutor(number) as pool:
            return [*pool.map(ask, range(number))].count(200)

    @contextmanager
    def leaving(self, path: str) -> Iterator[None]:
        """Post something, and close the connection with the block."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as client:
            head = (
                f"POST /behaviours/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            )
            client.sendall(head.encode())
            yield

    def count(self, what: str) -> int:
        return int(self.sql(f"SELECT count(*) FROM {what}")[0][0])

    def stored(self, token: str) -> int:
        """Return the rows with this token; who commits after the answer has a second for that."""
        self.until(lambda: self.count(f"behaviours WHERE token = '{token}'") > 0, SECONDS_TO_COMMIT)
        return self.count(f"behaviours WHERE token = '{token}'")

    def is_settled(self) -> bool:
        """Say whether no connection is in a transaction, waiting for the end of it if need be."""
        busy = f"pg_stat_activity WHERE {CONTENDERS_OWN} AND xact_start IS NOT NULL"
        return self.until(lambda: self.count(busy) == 0, SECONDS_TO_SETTLE)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _commits_without_being_told(running: Running) -> Seen:
    token = uuid4().hex
    status = running.ask("POST", f"write/{token}")
    rows = running.stored(token)
    return Seen(rows == 1, _said(status, rows))


def _commits_before_it_answers(running: Running) -> Seen:
    token = uuid4().hex
    status = running.ask("POST", f"slow-commit/{token}")
    rows = running.count(f"commits_slowly WHERE token = '{token}'")
    return Seen(rows == 1, _said(status, rows))


def _failed_commit_is_an_error(running: Running) -> Seen:
    status = running.ask("POST", f"failing-commit/{uuid4().hex}")
    return Seen(status >= 400, f"{status}")


def _swallowed_error_is_no_success(running: Running) -> Seen:
    token = uuid4().hex
    status = running.ask("POST", f"swallow/{token}")
    rows = running.stored(token)
    return Seen(status >= 400 or rows == 1, _said(status, rows))


def _keeps_nothing(path: str, running: Running) -> Seen:
    token = uuid4().hex
    status = running.ask("POST", f"{path}/{token}")
    if status == 404:
        return Seen(None, "its routes run in threads, which nobody cancels")
    rows = running.stored(token)
    return Seen(rows == 0 and running.is_settled(), _said(status, rows))


def _client_that_leaves_rolls_back(running: Running) -> Seen:
    token = uuid4().hex
    asleep = (
        f"pg_stat_activity WHERE {CONTENDERS_OWN} AND state = 'active' AND query LIKE '%pg_sleep%'"
    )
    with running.leaving(f"wait/{token}?seconds=2"):
        running.until(lambda: running.count(asleep) > 0, SECONDS_TO_SETTLE)
    start = time.monotonic()
    running.is_settled()
    seconds = time.monotonic() - start
    rows = running.stored(token)
    return Seen(rows == 0, f"{rows} rows stored, its transaction ended after {seconds:.1f} s")


def _clients_that_leave_hold_nothing(running: Running) -> Seen:
    when = random.Random(1)

    def leave(seconds: float) -> None:
        with suppress(OSError), running.leaving(f"wait/{uuid4().hex}?seconds=0.2"):
            time.sleep(seconds)

    for _ in range(5):
        with ThreadPoolExecutor(10) as pool:
            [*pool.map(leave, [when.uniform(0, 0.2) for _ in range(10)])]
    settled = running.is_settled()
    good = running.ask_at_once(10, "read")
    return Seen(settled and good == 10, f"{good} of the next 10 are answered, settled: {settled}")


def _closed_connections_fail_nobody(running: Running) -> Seen:
    running.ask_at_once(10, "read?seconds=0.3")
    running.is_settled()
    time.sleep(0.2)  # some give a connection back when the answer has left, which nothing tells
    running.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {CONTENDERS_OWN}")
    backends = f"pg_stat_activity WHERE {CONTENDERS_OWN} AND usesysid IS NOT NULL"
    running.until(lambda: running.count(backends) == 0, SECONDS_TO_SETTLE)
    good = running.ask_at_once(10, "read")
    return Seen(good == 10, f"{good} of 10 are answered")


def _stream_reads_on(running: Running) -> Seen:
    status, body = running.answer("GET", "stream")
    settled = running.is_settled()
    return Seen(
        body == b"1\n1\n1\n" and settled, f"{status}, {len(body)} of 6 bytes, settled: {settled}"
    )


def _crowd_is_answered(running: Running) -> Seen:
    good = running.ask_at_once(200, "read?seconds=0.2")
    return Seen(good == 200, f"{good} of 200 are answered")


def _said(status: int, rows: int) -> str:
    return f"{status or 'no answer'}, {rows} rows stored"


class Behaviour(NamedTuple):
    title: str
    see: Callable[[Running], Seen]
    alone: bool = False  # in a process that nothing has troubled before


BEHAVIOURS = {
    "commits_without_being_told": Behaviour(
        "A route that writes needs no `commit()`", _commits_without_being_told
    ),
    "commits_before_it_answers": Behaviour(
        "Who is answered finds what was written", _commits_before_it_answers
    ),
    "failed_commit": Behaviour(
        "A COMMIT that fails is an error answer", _failed_commit_is_an_error
    ),
    "swallowed_error": Behaviour(
        "A failed statement whose error is swallowed is no success", _swallowed_error_is_no_success
    ),
    "raised_error": Behaviour(
        "`raise HTTPException(409)` keeps nothing", partial(_keeps_nothing, "raise")
    ),
    "returned_error": Behaviour(
        "`return JSONResponse(…, 409)` keeps nothing", partial(_keeps_nothing, "answer")
    ),
    "cancelled": Behaviour("A cancelled route keeps nothing", partial(_keeps_nothing, "cancel")),
    "leaves": Behaviour(
        "A client that leaves cancels and rolls back its request", _client_that_leaves_rolls_back
    ),
    "closed_connections": Behaviour(
        "Connections that the server has closed fail no request", _closed_connections_fail_nobody
    ),
    "stream": Behaviour("A stream may use the request's session", _stream_reads_on),
    "leaving_crowd": Behaviour(
        "50 clients that leave hold no connection", _clients_that_leave_hold_nothing, alone=True
    ),
    "crowd": Behaviour("200 requests at once are answered", _crowd_is_answered, alone=True),
}


def run() -> None:
    """Look at all of them, or at those that BENCH_ONLY names; all of them are published."""
    refuse_single_core()
    names = named(BEHAVING)
    ours = service()
    pythons, failed = pythons_of({name: BEHAVING[name] for name in names}, ours)
    seen: dict[str, dict[str, dict[str, Any]]] = {}
    with postgresql(ours) as server, sql(ours, server.primary) as run_sql:
        run_sql(*TABLES)
        for name, python in pythons.items():
            print(BEHAVING[name].title, flush=True)
            try:
                seen[name] = _look(name, python, ours, server, run_sql)
            except RuntimeError as error:
                failed[name] = f"{error} (see behaving.{name}.log)"
    figures = {
        "postgresql": server.version,
        "versions": {name: versions_of(BEHAVING[name], pythons[name]) for name in seen},
        "seen": seen,
    }
    report.show("does it hold?", *_cells(figures))
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    report.keep("behaviours", failed=failed, **figures)
    if seen.keys() == BEHAVING.keys():
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        README.write_text(MARKED.sub(lambda _: table(figures), README.read_text()))


def _look(
    name: str, python: Path, ours: Service, server: PostgreSQL, run_sql: Sql
) -> dict[str, dict[str, Any]]:
    seen: dict[str, Seen] = {}
    together = [key for key, behaviour in BEHAVIOURS.items() if not behaviour.alone]
    for keys in [together, *([key] for key, behaviour in BEHAVIOURS.items() if behaviour.alone)]:
        with contender(f"behaving.{name}", python, ours, server) as serving:
            for key in keys:
                seen[key] = BEHAVIOURS[key].see(Running(serving, run_sql))
            if serving.process.poll() is not None:
                raise RuntimeError("it has ended")
            serving.process.kill()  # who waits for a connection would be waited for
    return {key: seen[key]._asdict() for key in BEHAVIOURS}


def table(figures: dict[str, Any]) -> str:
    """Return what was seen, in Markdown."""
    header, rows = _cells(figures)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    words = {True: "yes", False: "no", None: "-"}
    seen = figures["seen"]
    return ["", *(BEHAVING[name].title for name in seen)], [
        [behaviour.title, *(words[of[key]["holds"]] for of in seen.values())]
        for key, behaviour in BEHAVIOURS.items()
    ]
