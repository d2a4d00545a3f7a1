"""Copies the last results of `compare` into the repository: compare.json, the plot, the README's table.

The tests draw the table and the plot again from compare.json.
"""

import json
import re
from typing import Any

from benchmarks import report
from benchmarks.compare import CONTENDERS, LEVELS
from benchmarks.environment import BUILD, ROOT, MissingError
from benchmarks.load import OPERATIONS

README = ROOT / "README.md"
FIGURES = ROOT / "benchmarks" / "compare.json"
PLOT = ROOT / "benchmarks" / "compare.svg"

MARKED = re.compile(r"(?<=<!-- compare -->\n).*(?=<!-- compare end -->)", re.DOTALL)


def run() -> None:
    measured = BUILD / "compare.json"
    if not measured.exists():
        raise MissingError("there are no results yet: run make bench first")
    figures = json.loads(measured.read_text())
    if missing := CONTENDERS.keys() - figures["ratios_to_bare"]["p99"].keys():
        raise MissingError(
            f"the results have no {', '.join(sorted(missing))}: run make bench for all"
        )
    del figures["rounds"]
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PLOT.write_text(plot(figures))
    README.write_text(MARKED.sub(table(figures), README.read_text()))


def plot(figures: dict[str, Any]) -> str:
    """Return a plot of the requests per second at the lower level, as an SVG."""
    python = figures["versions"]["bare"]["python"]
    ratios = figures["ratios_to_bare"]["requests_per_second"]
    return report.plot(
        "Requests per second as a ratio to the hand-written application; "
        f"{LEVELS[0]} connections, one worker, Python {python}, PostgreSQL {figures['postgresql']}",
        list(OPERATIONS.values()),
        {CONTENDERS[name].title: ratios[name][:: len(LEVELS)] for name in ratios},
        ours=CONTENDERS["service"].title,
    )


def table(figures: dict[str, Any]) -> str:
    """Return CPU times, requests per second and 99th percentiles, as a Markdown table."""
    few, many = LEVELS
    cpu, rates, p99 = (
        figures["ratios_to_bare"][name]
        for name in ("cpu_seconds_per_request", "requests_per_second", "p99")
    )
    lines = [
        "| | CPU time: GET | list | POST "
        f"| requests/s, {few} connections: GET | list | POST | {many}: GET | list | POST "
        f"| p99, {many}: GET | list | POST |",
        "|---" * 13 + "|",
    ]
    for name in rates:
        cells = [*cpu[name][::2], *rates[name][::2], *rates[name][1::2], *p99[name][1::2]]
        shown = " | ".join(report.cell(cell or None) for cell in cells)
        lines.append(f"| {CONTENDERS[name].title} | {shown} |")
    return "\n".join(lines) + "\n"
