"""Measures how fast 10,000 events are inserted: by several methods, and by one request.

The methods run in the service's environment, on the server's core. The request includes the service's
validation and its commit. Its client runs on another core.
"""

import json
import os
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from uuid import uuid4

from benchmarks import report
from benchmarks.compare import contender
from benchmarks.environment import exchange, inside, postgresql, service, versions
from benchmarks.load import require_wrk_and_two_cores
from benchmarks.processes import OTHER_CORES

EVENTS = 10_000
PATH = "/analytics/events"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))


def run() -> None:
    require_wrk_and_two_cores()
    ours = service()
    body = _body()
    os.sched_setaffinity(0, OTHER_CORES)  # this process is the client
    rounds: list[dict[str, float]] = []
    with (
        postgresql(ours) as server,
        inside(ours, server, "bulk.py", str(EVENTS)) as process,
        contender("service", ours.python, ours, server) as serving,
    ):
        for number in range(ROUNDS + 1):
            seconds = exchange(process)
            start = perf_counter()
            status, content = serving.request("POST", PATH, body)
            seconds[f"POST {PATH}"] = perf_counter() - start
            if status != 201:
                raise RuntimeError(f"POST {PATH} returned {status}: {content[:200]!r}")
            if number:  # the first round is a warm-up
                rounds.append(seconds)

    rates = {name: EVENTS / median(r[name] for r in rounds) for name in rounds[0]}
    ratios = {name: median(r["COPY"] / r[name] for r in rounds) for name in rates}
    report.show(
        f"{EVENTS} events",
        ["", "events a second", "ratio to COPY"],
        [[name, f"{rate:.0f}", report.cell(ratios[name])] for name, rate in rates.items()],
    )
    report.keep(
        "bulk",
        settings={"rounds": ROUNDS, "events": EVENTS},
        postgresql=server.version,
        versions=versions(ours.python),
        events_per_second=rates,
        ratios_to_copy=ratios,
        rounds=rounds,
    )


def _body() -> bytes:
    now = datetime.now(UTC).isoformat()
    events = [
        {
            "name": "seen",
            "user_id": str(uuid4()),
            "properties": {"page": f"/{n}", "number": n},
            "occurred_at": now,
        }
        for n in range(EVENTS)
    ]
    return json.dumps(events).encode()
