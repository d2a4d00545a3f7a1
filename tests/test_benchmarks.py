"""The benchmarks run, and the README shows their stored results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import behaviours, publish
from benchmarks.compare import CONTENDERS
from tests.conftest import ROOT
from tests.servers import python

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
