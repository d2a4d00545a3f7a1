"""Measures how the service grows: larger pages, more connections, more workers, more databases.

Each load has a server of its own, so that its memory is comparable. `pages` measures larger tables.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import report
from benchmarks.compare import bare_python, contender
from benchmarks.environment import (
    SEED,
    PostgreSQL,
    Service,
    Sql,
    exchange,
    inside,
    postgresql,
    service,
    sql,
    versions,
)
from benchmarks.load import Result, load, require_wrk_and_two_cores
from benchmarks.processes import CORES, OTHER_CORES, SERVER_CORES
from benchmarks.rounds import CLEAN_UP, ROUNDS, SECONDS, compared

TIMEOUT = 30  # seconds; longer than any wait for a connection
LIMITS = (1, 50, 200, 1000)
CONNECTIONS = (16, 64, 256, 1000)
ENGINES = 500
RESERVED = 50  # connections of PostgreSQL that are not for the engines

# Each POST then holds its connection for 200 ms: a pool of 20 completes 100 a second.
SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END'",
    "CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow()",
)
FAST = ("DROP FUNCTION IF EXISTS slow CASCADE",)


class Case(NamedTuple):
    operation: str
    connections: int
    settings: Mapping[str, str] = {}
    server: str = "service"
    cores: Collection[int] = SERVER_CORES


PAGES = "`GET /users?limit=…` on 16 connections, relative to a page of one row"
QUEUES = "`POST /users` of 200 ms on 1,000 connections, relative to the default settings"

CASES = {
    PAGES: {
        f"{server} {limit}": Case(f"/users?limit={limit}", 16, server=server)
        for limit in LIMITS
        for server in ("service", "raw")
    },
    "`GET /users/{id}`, by the number of connections, relative to 16": {
        f"{number:,}": Case("get", number) for number in CONNECTIONS
    },
    QUEUES: {
        "default settings": Case("post", 1000),
        "`POOL_SIZE=100`": Case("post", 1000, {"DATABASES__PRIMARY__POOL_SIZE": "100"}),
        "`POOL_TIMEOUT=1`": Case("post", 1000, {"DATABASES__PRIMARY__POOL_TIMEOUT": "1"}),
        "`LIMIT_CONCURRENCY=200`": Case("post", 1000, {"LIMIT_CONCURRENCY": "200"}),
    },
    f"`GET /users/{{id}}` on 64 connections, relative to one worker. The workers use all {len(CORES)} cores, "
    f"and share {len(OTHER_CORES)} of them with wrk and PostgreSQL": {
        f"`WEB_CONCURRENCY={n}`": Case("get", 64, {"WEB_CONCURRENCY": n}, cores=CORES) for n in "12"
    },
}

Rounds = Mapping[str, Sequence[Result]]  # by the name of the case


def run() -> None:
    require_wrk_and_two_cores()
    ours = service()
    pythons = {"service": ours.python, "raw": bare_python()}
    with postgresql(ours) as server, sql(ours, server.primary) as run_sql:
        connected = min(ENGINES, int(run_sql("SHOW max_connections")[0][0]) - RESERVED)
        with inside(ours, server, "tenants.py", str(ENGINES), str(connected)) as process:
            costs = [exchange(process) for _ in range(2)]
        run_sql(SEED)
        rounds: dict[str, dict[str, list[Result]]] = {title: {} for title in CASES}
        for number in range(1, ROUNDS + 1):
            for title, cases in CASES.items():
                print(f"round {number} of {ROUNDS}: {title}", flush=True)
                for name, case in cases.items():
                    result = _load(case, pythons[case.server], ours, server, run_sql)
                    rounds[title].setdefault(name, []).append(result)

    for title, of_title in rounds.items():
        print(f"\n{title}:\n\n{pages(of_title) if title == PAGES else table(of_title)}", end="")
    print(f"\n{ENGINES} engines, costs of each:\n\n{engines(costs, connected)}", end="")
    report.keep(
        "growth",
        settings={"rounds": ROUNDS, "seconds": SECONDS, "engines": ENGINES, "connected": connected},
        postgresql=server.version,
        versions={name: versions(python) for name, python in pythons.items()},
        engines=costs,
        rounds={
            title: {name: [r._asdict() for r in results] for name, results in of_title.items()}
            for title, of_title in rounds.items()
        },
    )


def _load(case: Case, python: Path, ours: Service, server: PostgreSQL, run_sql: Sql) -> Result:
    waits = case.operation == "post"
    settings = {"SHUTDOWN_DELAY": "0", **case.settings}
    run_sql(*FAST, *CLEAN_UP, *(SLOW if waits else ()))
    with contender(case.server, python, ours, server, cores=case.cores, **settings) as serving:
        load(serving, case.operation, 16, 1)  # a warm-up, which opens the pool
        seconds = 3 * SECONDS if waits else SECONDS  # longer than POOL_TIMEOUT
        return load(serving, case.operation, case.connections, seconds, TIMEOUT)


def pages(rounds: Rounds) -> str:
    """Return a Markdown table of the pages of the service."""
    rows = []
    for limit in LIMITS:
        mine, raw = rounds[f"service {limit}"], rounds[f"raw {limit}"]
        cpu = compared(mine, rounds[f"service {LIMITS[0]}"], "cpu_seconds_per_request") or 0
        to_raw = compared(mine, raw, "cpu_seconds_per_request")
        rows.append(
            [f"{limit:,}", f"{cpu:.2f}", f"{cpu / limit:.3f}", report.cell(to_raw), *_rest(mine)]
        )
    return report.markdown(
        ["rows", "CPU per request", "CPU per row", "CPU relative to `raw`", *REST], rows
    )


def table(rounds: Rounds) -> str:
    """Return a Markdown table, relative to the first case."""
    first = next(iter(rounds.values()))
    figures = ("requests_per_second", "cpu_seconds_per_request")
    rows = [
        [
            name,
            *(report.cell(compared(results, first, figure)) for figure in figures),
            *_rest(results),
        ]
        for name, results in rounds.items()
    ]
    return report.markdown(["", "2xx per second", "CPU per response", *REST], rows)


REST = ("p50, ms", "p99, ms", "errors", "RSS, MiB")


def _rest(results: Sequence[Result]) -> list[str]:
    errors = sum(r.errors for r in results) / max(1, sum(r.requests for r in results))
    times = (median(r.p50 for r in results), median(r.p99 for r in results))
    mib = median(r.kib for r in results) / 1024
    return [*(f"{seconds * 1000:.0f}" for seconds in times), f"{errors:.0%}", f"{mib:.0f}"]


def engines(costs: Sequence[Mapping[str, Sequence[float]]], connected: int) -> str:
    """Return a Markdown table of the costs of one engine, the first and the second time."""
    steps = {
        "engines": ("an engine", ENGINES),
        "connections": (f"its first connection, for {connected} of them", connected),
        "disposed": ("`dispose_engines()`", ENGINES),
    }
    rows = [
        [title, *(f"{figure / count:.3g}" for of in costs for figure in of[step])]
        for step, (title, count) in steps.items()
    ]
    return report.markdown(["", "CPU, ms", "RSS, KiB", "again: CPU", "RSS"], rows)
