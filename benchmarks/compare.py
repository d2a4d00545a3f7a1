"""Compares the service with alternatives: requests per second and CPU time, as ratios to `bare`.

All have the same three routes and the same table, and one worker on its own core. The service runs as it
is shipped, with its logging and middleware. The alternatives run under uvicorn with uvloop and httptools,
and without request logging, which is an advantage for them.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import report
from benchmarks.environment import (
    BUILD,
    ROOT,
    SEED,
    USERS,
    MissingError,
    PostgreSQL,
    Service,
    environment,
    postgresql,
    service,
    sql,
    versions,
)
from benchmarks.load import OPERATIONS, require_wrk_and_two_cores
from benchmarks.processes import SERVER_CORES, Command, Serving, serving
from benchmarks.responses import check_responses
from benchmarks.rounds import (
    FIGURES,
    ROUNDS,
    SECONDS,
    Results,
    measure,
    ratio,
    require_connections,
)

LEVELS = (16, 64)  # connections

COMMON = ("asyncpg", "email-validator", "fastapi", "sqlalchemy[asyncio]", "uvicorn[standard]")
PSYCOPG = "psycopg[binary]"


class Contender(NamedTuple):
    title: str
    packages: tuple[str, ...] = ()  # in addition to COMMON


CONTENDERS = {
    "service": Contender("this template"),
    "bare": Contender("hand-written"),
    "bare_autocommit": Contender("hand-written, AUTOCOMMIT reads"),
    "tuned": Contender("hand-written, same tricks"),
    "raw": Contender("asyncpg without SQLAlchemy"),
    "late": Contender("commit after the response"),
    "advanced_alchemy_autocommit": Contender("Advanced Alchemy", ("advanced-alchemy",)),
    # The newest version that dbwarden-fastapi 0.2 can be imported with. Both need SQLAlchemy 2.0.
    "dbwarden_get_session": Contender("DBWarden", ("dbwarden==0.17.*", "dbwarden-fastapi")),
    "fastapi_utils_sessionmaker": Contender("fastapi-utils", ("fastapi-utils[all]", PSYCOPG)),
    "sqlmodel_sync": Contender("SQLModel", ("sqlmodel", PSYCOPG)),
}


def run() -> None:
    """Measure all contenders, or `bare` and those in BENCH_ONLY."""
    require_wrk_and_two_cores()
    names = named(CONTENDERS, "bare")
    ours = service()
    pythons, failed = pythons_of({name: CONTENDERS[name] for name in names}, ours)
    with postgresql(ours) as server, sql(ours, server.primary) as run_sql:
        require_connections(run_sql, len(pythons))
        run_sql(SEED)
        starts = {
            name: partial(contender, name, python, ours, server) for name, python in pythons.items()
        }
        results = measure(starts, check_responses, run_sql, OPERATIONS, LEVELS, failed)
    _report(
        server,
        results,
        failed,
        {n: versions_of(CONTENDERS[n], p) for n, p in pythons.items() if n not in failed},
    )


@contextmanager
def contender(
    name: str,
    python: Path,
    ours: Service,
    server: PostgreSQL,
    *,
    cores: Collection[int] = SERVER_CORES,
    **settings: str,
) -> Iterator[Serving]:
    """Serve one of the contenders, with these environment variables."""
    module = f"benchmarks.contenders.{name}:app"
    command: Command = [python, "-m", "uvicorn", module, "--no-access-log"]
    folder = ROOT
    if name == "service":
        command, folder = [python, "-m", "app", "serve"], ours.folder
    log = BUILD / f"{name}.log"
    env = server.variables() | settings
    with serving(command, env=env, folder=folder, log=log, cores=cores) as running:
        yield running


def bare_python() -> Path:
    """Return the Python of the contenders that need only the COMMON packages."""
    return environment("bare", *COMMON)


def named(contenders: Mapping[str, Contender], *always: str) -> list[str]:
    """Return the names in BENCH_ONLY and `always`. Without BENCH_ONLY, return all names."""
    only = os.environ.get("BENCH_ONLY", ",".join(contenders)).split(",")
    if unknown := set(only) - contenders.keys():
        raise MissingError(
            f"BENCH_ONLY has unknown names: {', '.join(sorted(unknown))}. "
            f"The known names are: {', '.join(contenders)}"
        )
    return [name for name in contenders if name in {*only, *always}]


def pythons_of(
    contenders: Mapping[str, Contender], ours: Service
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the Python of each contender, and the reason for each that cannot be installed."""
    pythons: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for name, (_, packages) in contenders.items():
        try:
            if name == "service":
                pythons[name] = ours.python
            else:
                pythons[name] = environment(name if packages else "bare", *COMMON, *packages)
        except MissingError as error:
            failed[name] = str(error)
    return pythons, failed


def versions_of(contender: Contender, python: Path) -> dict[str, str]:
    return versions(python, *(re.split(r"[^\w-]", p)[0] for p in contender.packages))


def _report(
    server: PostgreSQL,
    results: Results,
    failed: dict[str, str],
    measured: dict[str, dict[str, str]],
) -> None:
    columns = [(operation, level) for operation in OPERATIONS for level in LEVELS]
    header = [f"{operation} {level}" for operation, level in columns]
    ratios = {
        figure: {n: [ratio(results, (n, *c), figure) for c in columns] for n in measured}
        for figure in FIGURES
    }
    all_of = {n: [r for key, rs in results.items() if key[0] == n for r in rs] for n in measured}
    errors = {name: sum(r.errors for r in rs) for name, rs in all_of.items()}
    stalls = {name: sum(r.stalled for r in rs) for name, rs in all_of.items()}

    for figure, rows in ratios.items():
        report.show(
            f"{figure.replace('_', ' ')}, as a ratio to bare",
            ["", *header, "errors", "stalls"],
            [[n, *map(report.cell, rows[n]), str(errors[n]), str(stalls[n])] for n in rows],
        )
    bare = [median(r.requests_per_second for r in results["bare", *column]) for column in columns]
    report.show("requests per second", ["", *header], [["bare", *(f"{r:.0f}" for r in bare)]])
    for name, reason in failed.items():
        print(f"{name}: {reason}")

    report.keep(
        "compare",
        settings={"rounds": ROUNDS, "seconds": SECONDS, "users": USERS, "pool_size": 20},
        postgresql=server.version,
        versions=measured,
        columns=[f"{OPERATIONS[operation]}, {level} connections" for operation, level in columns],
        ratios_to_bare=ratios,
        errors=errors,
        stalls=stalls,
        failed=failed,
        rounds={" ".join(map(str, k)): [r._asdict() for r in rs] for k, rs in results.items()},
    )
