"""What a single choice costs: `bare` with one thing made otherwise, as ratios to `bare`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.answers import refuse_wrong_answers
from benchmarks.compare import bare_python
from benchmarks.environment import BUILD, ROOT, SEED, PostgreSQL, postgresql, service, sql, versions
from benchmarks.load import OPERATIONS, refuse_poor_machine
from benchmarks.processes import Command, Serving, serving
from benchmarks.turns import ROUNDS, SECONDS, measure, ratio, refuse_few_connections

LEVEL = 16  # connections
GET, POST = "get", "post"

# What each lever touches.
LEVERS = {
    "bare": (GET, POST),
    "reads in AUTOCOMMIT": (GET,),
    "ping on every checkout": (GET, POST),
    "pool of 5 + 10": (GET, POST),
    "BaseHTTPMiddleware": (GET, POST),
    "pure ASGI middleware": (GET, POST),
    "def dependency": (GET, POST),
    "class dependency": (GET, POST),
    "SELECT before INSERT": (POST,),
    "savepoint around INSERT": (POST,),
    "commit and refresh in the route": (POST,),
}


def run() -> None:
    refuse_poor_machine()
    ours, python = service(), bare_python()
    failed: dict[str, str] = {}
    with postgresql(ours) as server, sql(ours, server.primary) as run_sql:
        refuse_few_connections(run_sql, len(LEVERS) + 1)
        run_sql(SEED)
        starts = {lever: partial(_serving, lever, python, server) for lever in LEVERS}
        results = measure(starts, refuse_wrong_answers, run_sql, (GET, POST), (LEVEL,), failed)

    columns = [
        (operation, figure)
        for operation in (GET, POST)
        for figure in ("cpu_seconds_per_request", "requests_per_second")
    ]
    ratios = {
        lever: [
            ratio(results, (lever, operation, LEVEL), figure) if operation in touched else None
            for operation, figure in columns
        ]
        for lever, touched in LEVERS.items()
    }
    report.show(
        f"as a ratio to bare, {LEVEL} connections",
        ["", "get: CPU", "get: rate", "post: CPU", "post: rate"],
        [[lever, *map(report.cell, row)] for lever, row in ratios.items()],
    )
    for lever, reason in failed.items():
        print(f"{lever}: {reason}")
    report.keep(
        "levers",
        settings={"rounds": ROUNDS, "seconds": SECONDS, "connections": LEVEL},
        postgresql=server.version,
        versions=versions(python),
        columns=[f"{OPERATIONS[operation]}: {figure}" for operation, figure in columns],
        ratios_to_bare=ratios,
        failed=failed,
        rounds={" ".join(map(str, k)): [r._asdict() for r in rs] for k, rs in results.items()},
    )


@contextmanager
def _serving(lever: str, python: Path, server: PostgreSQL) -> Iterator[Serving]:
    module = "benchmarks.contenders.levers:app"
    command: Command = [python, "-m", "uvicorn", module, "--no-access-log"]
    environment = server.variables() | {"LEVER": lever}
    log = BUILD / f"{lever}.log"
    with serving(command, env=environment, folder=ROOT, log=log) as running:
        yield running
