"""Measures the memory of the service while it streams a million events, plain and compressed."""

import http.client
import os
import time
import zlib
from typing import Any

from benchmarks import report
from benchmarks.compare import contender
from benchmarks.environment import postgresql, service, sql, versions
from benchmarks.load import require_wrk_and_two_cores
from benchmarks.processes import OTHER_CORES, Serving

PATH = "/analytics/events/export"
ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
ENCODINGS = ("identity", "gzip")
SECONDS_BETWEEN_SAMPLES = 0.02

FILL = f"""
INSERT INTO events (name, user_id, properties, occurred_at)
SELECT 'seen', gen_random_uuid(), json_build_object('page', '/' || n, 'number', n),
    timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second'
FROM generate_series(1, {ROWS}) AS n
"""


def run() -> None:
    require_wrk_and_two_cores()
    ours = service()
    os.sched_setaffinity(0, OTHER_CORES)  # this process is the client
    with postgresql(ours) as server:
        figures: dict[str, dict[str, Any]] = {}
        for encoding in ENCODINGS:  # each in a new process, so that its memory is comparable
            with contender("service", ours.python, ours, server) as serving:
                if b'"' + PATH.encode() + b'"' not in serving.get("/openapi.json")[1]:
                    print(f"the service has no {PATH}: there is nothing to measure")
                    return
                if not figures:
                    with sql(ours, server.analytics) as run_sql:
                        run_sql(FILL, "VACUUM ANALYZE events")
                figures[encoding] = _export(serving, encoding)

    report.show(
        f"{ROWS} rows, by GET {PATH}",
        [
            "",
            "sent as",
            "rows a second",
            "RSS before, MiB",
            "growth, MiB",
            "growth of the peak, MiB",
        ],
        [
            [
                encoding,
                figure["sent_as"],
                f"{figure['rows_per_second']:.0f}",
                *(f"{figure[name] / 1024:.1f}" for name in ("before", "growth", "growth_of_peak")),
            ]
            for encoding, figure in figures.items()
        ],
    )
    report.keep(
        "export",
        settings={"rows": ROWS},
        postgresql=server.version,
        versions=versions(ours.python),
        kib=figures,
    )


def _export(serving: Serving, encoding: str) -> dict[str, Any]:
    """Read the whole stream and sample the memory meanwhile. Sizes are in KiB."""
    serving.get("/users")  # the first requests load code, which is not counted as growth
    serving.get("/analytics/events?limit=1")
    before, peak_before = serving.memory("VmRSS"), serving.memory("VmHWM")
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=60)
    start = time.perf_counter()
    connection.request("GET", PATH, headers={"Accept-Encoding": encoding})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"GET {PATH} returned {response.status}")
    sent_as = response.headers.get("Content-Encoding", "identity")
    unzip = zlib.decompressobj(wbits=31)
    rows, peak, next_sample = 0, before, start
    while chunk := response.read1(1 << 16):
        text = unzip.decompress(chunk) if sent_as == "gzip" else chunk
        rows += text.count(b"\n")
        if time.perf_counter() > next_sample:
            peak = max(peak, serving.memory("VmRSS"))
            next_sample = time.perf_counter() + SECONDS_BETWEEN_SAMPLES
    seconds = time.perf_counter() - start
    connection.close()
    if rows != ROWS:
        raise RuntimeError(f"GET {PATH} has {rows} lines, not {ROWS}")
    return {
        "sent_as": sent_as,
        "rows_per_second": rows / seconds,
        "before": before,
        "growth": peak - before,
        "growth_of_peak": serving.memory("VmHWM") - peak_before,
    }
