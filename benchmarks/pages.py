"""Measures the first and the last page of users, by key and by OFFSET, in tables of three sizes.

A page is a read-only session with the statement of the service's repository. BENCH_ROWS reduces the size
of the largest table.
"""

import os
import shutil
from pathlib import Path

from benchmarks import report
from benchmarks.environment import (
    PostgreSQL,
    Sql,
    exchange,
    inside,
    postgresql,
    service,
    sql,
    versions,
)
from benchmarks.load import require_wrk_and_two_cores

SIZES = (1_000, 100_000, 10_000_000)
BYTES_OF_A_ROW = 700  # with its indexes, and the same amount again to build them


def run() -> None:
    require_wrk_and_two_cores()
    ours = service()
    with postgresql(ours) as server:
        with sql(ours, server.primary) as run_sql:
            sizes = _sizes(run_sql)
        figures = []
        with inside(ours, server, "pages.py", *map(str, sizes)) as process:
            for size in sizes:
                print(f"{size} rows", flush=True)
                figures.append(exchange(process))
    _report(figures, server, versions(ours.python))


def _sizes(run_sql: Sql) -> list[int]:
    """Return the sizes of the tables, limited to the available space."""
    most = int(os.environ.get("BENCH_ROWS", str(SIZES[-1])))
    folder = Path(run_sql("SHOW data_directory")[0][0])
    if folder.exists():  # otherwise the server is on another machine
        limit = min(shutil.disk_usage(folder).free, _available_memory()) // BYTES_OF_A_ROW
        if limit < most:
            print(f"there is space for {limit} rows, not for {most}")
            most = limit
    return sorted({min(size, most) for size in SIZES})


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no line MemAvailable")


def _report(
    figures: list[dict[str, dict[str, float]]], server: PostgreSQL, of: dict[str, str]
) -> None:
    smallest = figures[0]["seconds"]
    rows = []
    for figure in figures:
        seconds = figure["seconds"]
        rows.append(
            [
                str(figure["rows"]),
                *(f"{seconds[name] * 1000:.2f}" for name in ("first", "last", "offset")),
                *(
                    f"{ratio:.2f}"
                    for ratio in (
                        seconds["last"] / seconds["first"],
                        seconds["last"] / smallest["last"],
                        seconds["offset"] / seconds["last"],
                    )
                ),
            ]
        )
    report.show(
        "milliseconds of a page of 50 users, and ratios",
        ["rows", "first", "last", "OFFSET", "last/first", "last/fewest rows", "OFFSET/last"],
        rows,
    )
    report.keep("pages", postgresql=server.version, versions=of, pages=figures)
