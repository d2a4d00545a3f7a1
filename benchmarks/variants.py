"""Measures the cost of a single choice: variants of `bare` that differ in one point, as ratios to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.compare import bare_python
from benchmarks.environment import BUILD, ROOT, SEED, PostgreSQL, postgresql, service, sql, versions
from benchmarks.load import OPERATIONS, require_wrk_and_two_cores
from benchmarks.processes import Command, Serving, serving
from benchmarks.responses import check_responses
from benchmarks.rounds import ROUNDS, SECONDS, measure, ratio, require_connections

LEVEL = 16  # connections
GET, POST = "get", "post"

# The operations that each variant affects.
VARIANTS = {
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
    require_wrk_and_two_cores()
    ours, python = service(), bare_python()
    failed: dict[str, str] = {}
    with postgresql(ours) as server, sql(ours, server.primary) as run_sql:
        require_connections(run_sql, len(VARIANTS) + 1)
        run_sql(SEED)
        starts = {variant: partial(_serving, variant, python, server) for variant in VARIANTS}
        results = measure(starts, check_responses, run_sql, (GET, POST), (LEVEL,), failed)

    columns = [
        (operation, figure)
        for operation in (GET, POST)
        for figure in ("cpu_seconds_per_request", "requests_per_second")
    ]
    ratios = {
        variant: [
            ratio(results, (variant, operation, LEVEL), figure) if operation in affected else None
            for operation, figure in columns
        ]
        for variant, affected in VARIANTS.items()
    }
    report.show(
        f"as a ratio to bare, {LEVEL} connections",
        ["", "get: CPU", "get: rate", "post: CPU", "post: rate"],
        [[variant, *map(report.cell, row)] for variant, row in ratios.items()],
    )
    for variant, reason in failed.items():
        print(f"{variant}: {reason}")
    report.keep(
        "variants",
        settings={"rounds": ROUNDS, "seconds": SECONDS, "connections": LEVEL},
        postgresql=server.version,
        versions=versions(python),
        columns=[f"{OPERATIONS[operation]}: {figure}" for operation, figure in columns],
        ratios_to_bare=ratios,
        failed=failed,
        rounds={" ".join(map(str, k)): [r._asdict() for r in rs] for k, rs in results.items()},
    )


@contextmanager
def _serving(variant: str, python: Path, server: PostgreSQL) -> Iterator[Serving]:
    module = "benchmarks.contenders.variants:app"
    command: Command = [python, "-m", "uvicorn", module, "--no-access-log"]
    environment = server.variables() | {"VARIANT": variant}
    log = BUILD / f"{variant}.log"
    with serving(command, env=environment, folder=ROOT, log=log) as running:
        yield running
