"""Pages: what the first one and the last one cost, by key and by OFFSET, in tables of any size.

A page is what the service does for one: a read-only session, the statement of its repository, and its
end. BENCH_ROWS lowers the size of the largest table.
"""

import os
import shutil
from pathlib import Path

from benchmarks import report
from benchmarks.environment import (
    PostgreSQL,
    Sql,
    answer,
    inside,
    postgresql,
    service,
    sql,
    versions,
)
from benchmarks.load import refuse_poor_machine

SIZES = (1_000, 100_000, 10_000_000)
BYTES_OF_A_ROW = 700  # with its indexes, and as much again to make them in


def run() -> None:
    refuse_poor_machine()
    ours = service()
    with postgresql(ours) as server:
        with sql(ours, server.primary) as run_sql:
            sizes = _sizes(run_sql)
        figures = []
        with inside(ours, server, "pages.py", *map(str, sizes)) as process:
            for size in sizes:
                print(f"{size} rows", flush=True)
                figures.append(answer(process))
    _report(figures, server, versions(ours.python))


def _sizes(run_sql: Sql) -> list[int]:
    """Return the sizes of tables for which there is room."""
    most = int(os.environ.get("BENCH_ROWS", str(SIZES[-1])))
    folder = Path(run_sql("SHOW data_directory")[0][0])
    if folder.exists():  # or it is on another machine
        room = min(shutil.disk_usage(folder).free, _available_memory()) // BYTES_OF_A_ROW
        if room < most:
            print(f"there is room for {room} rows, not for {most}")
            most = room
    return sorted({min(size, most) for size in SIZES})


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo does not say what memory is available")


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
