"""The benchmarks run, and the README shows their stored results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import behaviours, growth, publish
from benchmarks.compare import CONTENDERS
from benchmarks.load import Result
from tests.conftest import ROOT, clean_environment
from tests.servers import external_server, python

pytestmark = pytest.mark.full


def test_isolation_benchmark_runs(project: Path) -> None:
    plugin = ("-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest")

    ended = python(
        project, *plugin, f"{ROOT}/benchmarks/isolation.py", ROUNDS="1", TEST_POSTGRES="embedded"
    )

    assert ended.returncode == 0
    assert ended.stdout.count("restored_clone") == 2


def test_unknown_mode_is_refused_in_one_sentence() -> None:
    command = [sys.executable, "-m", "benchmarks", "speed"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "speed" in ended.stderr
    assert "compare" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_readme_and_plot_show_the_results_of_compare() -> None:
    figures = json.loads(publish.FIGURES.read_text())

    assert publish.table(figures) in publish.README.read_text()
    assert publish.plot(figures) == publish.PLOT.read_text()
    assert figures["ratios_to_bare"]["p99"].keys() == CONTENDERS.keys()


def test_readme_shows_the_results_of_behaviours() -> None:
    figures = json.loads(behaviours.FIGURES.read_text())

    assert behaviours.table(figures) in behaviours.README.read_text()
    assert figures["seen"].keys() == behaviours.PROJECTS.keys()
    for seen in figures["seen"].values():
        assert seen.keys() == behaviours.BEHAVIOURS.keys()


def _result(rate: float, *, errors: int = 0) -> Result:
    return Result(
        requests_per_second=rate,
        cpu_seconds_per_request=1 / rate,
        p50=0.01,
        p99=0.02,
        requests=100,
        errors=errors,
        kib=2048,
        stalled=False,
    )


# The machine is slower in the second round.
FAST, SLOW = [_result(1000), _result(100)], [_result(500, errors=50), _result(50)]


def test_growth_compares_within_a_round_and_readme_has_its_tables() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    loads = growth.table({"16": FAST, "64": SLOW})
    pages = growth.pages(
        {f"{server} {limit}": FAST for limit in growth.LIMITS for server in ("service", "raw")}
        | {"service 50": SLOW}
    )
    engines = growth.engines(
        [{"engines": (500, 1000), "connections": (9, 6), "disposed": (1, 0)}], 3
    )

    assert "| 64 | 0.50 | 2.00 | 10 | 20 | 25% | 2 |\n" in loads
    assert "| 50 | 2.00 | 0.040 | 2.00 | 10 | 20 | 25% | 2 |\n" in pages
    assert "| an engine | 1 | 2 |\n" in engines
    assert "| its first connection, for 3 of them | 3 | 2 |\n" in engines
    for title in list(growth.CASES)[:-1]:  # the last one names the cores of the machine
        assert f"{title}:\n\n|" in readme
    for table in (loads, pages, engines):
        assert table.partition(" |\n")[0] in readme


def test_growth_measures_engines_of_the_rendered_service(project: Path) -> None:
    script = ROOT / "benchmarks" / "inside" / "tenants.py"

    with external_server(project, superuser=True) as url:
        ended = subprocess.run(
            [project / ".venv/bin/python", script, "5", "3"],
            cwd=project,
            env=clean_environment(
                DATABASE_URL=url.replace("shop_test", "postgres"), PYTHONPATH=str(project)
            ),
            input="\n\n",
            capture_output=True,
            text=True,
            check=False,
        )

    assert ended.returncode == 0, ended.stderr
    for line in ended.stdout.splitlines():
        assert all(milliseconds > 0 for milliseconds, _ in json.loads(line).values())
    assert len(ended.stdout.splitlines()) == 2
