"""Measures the time from the start of the service to its first response, and its memory then.

The first request reads a user from PostgreSQL.
"""

import os
from statistics import median
from time import perf_counter

from benchmarks import report
from benchmarks.compare import bare_python, contender
from benchmarks.environment import SEED, postgresql, service, sql, user_id, versions
from benchmarks.load import require_wrk_and_two_cores

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))


def run() -> None:
    require_wrk_and_two_cores()
    ours = service()
    pythons = {"service": ours.python, "bare": bare_python()}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in pythons}
    with postgresql(ours) as server:
        with sql(ours, server.primary) as run_sql:
            run_sql(SEED)
        for number in range(ROUNDS + 1):
            for name, python in pythons.items():
                start = perf_counter()
                with contender(name, python, ours, server) as serving:
                    status, _ = serving.get(f"/users/{user_id(1)}")
                    seconds = perf_counter() - start
                    if status != 200:
                        raise RuntimeError(f"{name} returned {status}")
                    if number:  # the first round compiles the code and fills the caches
                        rounds[name].append((seconds, serving.memory("VmRSS")))

    rows = {
        name: [median(column) for column in zip(*of, strict=True)] for name, of in rounds.items()
    }
    pairs = zip(rounds["service"], rounds["bare"], strict=True)
    ratios = [median(column) for column in zip(*(_quotients(*pair) for pair in pairs), strict=True)]
    report.show(
        "from the start to the first response",
        ["", "seconds", "RSS, MiB"],
        [
            *(
                [name, f"{seconds:.2f}", f"{kib / 1024:.1f}"]
                for name, (seconds, kib) in rows.items()
            ),
            ["ratio", *map(report.cell, ratios)],
        ],
    )
    report.keep(
        "start",
        settings={"rounds": ROUNDS},
        postgresql=server.version,
        versions={name: versions(python) for name, python in pythons.items()},
        columns=["seconds", "kib"],
        medians=rows,
        ratios_to_bare=ratios,
        rounds=rounds,
    )


def _quotients(mine: tuple[float, float], bare: tuple[float, float]) -> list[float]:
    return [a / b for a, b in zip(mine, bare, strict=True)]
