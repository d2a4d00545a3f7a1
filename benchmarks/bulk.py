"""Bulk: how quickly 10,000 events get into a table, in several ways, and by a request.

The ways run on the core of what is measured, in the service's environment. The request is the
service's, with its checks and its commit; its client is on another core.
"""

import json
import os
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from uuid import uuid4

from benchmarks import report
from benchmarks.compare import contender
from benchmarks.environment import answer, inside, postgresql, service, versions
from benchmarks.load import refuse_poor_machine
from benchmarks.processes import OTHERS

EVENTS = 10_000
PATH = "/analytics/events"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))


def run() -> None:
    refuse_poor_machine()
    ours = service()
    body = _body()
    os.sched_setaffinity(0, OTHERS)  # the client is we
    rounds: list[dict[str, float]] = []
    with (
        postgresql(ours) as server,
        inside(ours, server, "bulk.py", str(EVENTS)) as process,
        contender("service", ours.python, ours, server) as serving,
    ):
        for number in range(ROUNDS + 1):
            seconds = answer(process)
            start = perf_counter()
            status, said = serving.request("POST", PATH, body)
            seconds[f"POST {PATH}"] = perf_counter() - start
            if status != 201:
                raise RuntimeError(f"POST {PATH} is answered with {status}: {said[:200]!r}")
            if number:  # the first one warms up
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
