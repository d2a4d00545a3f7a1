"""A pytest plugin: after the tests, prints when each file ran and how much CPU time it took."""

import resource
from collections.abc import Generator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

began = pytest.StashKey[float]()
WIDTH = 50  # characters of the longest bar


def cpu() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[began] = cpu()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "teardown":
        report.user_properties.append(("cpu", cpu() - item.stash[began]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        report
        for category in ("", "passed", "failed", "skipped")
        for report in terminalreporter.stats.get(category, [])
        if isinstance(report, pytest.TestReport)
    ]
    if not reports:
        return
    first, last = min(r.start for r in reports), max(r.stop for r in reports)
    scale = WIDTH / (last - first)
    rows = []
    for name, group in groupby(sorted(reports, key=file), key=file):
        of_file = list(group)
        start, stop = min(r.start for r in of_file) - first, max(r.stop for r in of_file) - first
        used = sum(float(str(dict(r.user_properties).get("cpu", 0))) for r in of_file)
        bar = " " * int(start * scale) + "=" * max(1, int((stop - start) * scale))
        rows.append((start, f"{name:20} {start:6.0f} {stop:6.0f} {used:8.1f}  {bar}"))
    terminalreporter.section("file, start (s), end (s), CPU time (s)")
    for _, row in sorted(rows):
        terminalreporter.write_line(row)


def file(report: pytest.TestReport) -> str:
    return Path(report.location[0]).stem
