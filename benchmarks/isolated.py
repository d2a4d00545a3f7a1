"""Runs isolation.py in the rendered service."""

import os
import re
import subprocess

from benchmarks import report
from benchmarks.environment import ROOT, MissingError, service, variables, versions

LINE = re.compile(r"(\w+) +([\d.]+) ms +([\d.]+)")


def run() -> None:
    ours = service()
    plugin = ("-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest")
    more = {name: os.environ[name] for name in ("DOCKER_HOST", "ROUNDS") if name in os.environ}
    if url := os.environ.get("BENCH_DATABASE_URL"):
        more["TEST_DATABASE_URL"] = url
    process = subprocess.Popen(
        [ours.python, *plugin, ROOT / "benchmarks" / "isolation.py"],
        cwd=ours.folder,
        env=variables(**more),
        stdout=subprocess.PIPE,
        text=True,
    )
    tables: dict[str, dict[str, float]] = {}
    with process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.endswith("more tables\n"):
                tables[line.strip()] = {}
            elif found := LINE.match(line):
                tables[list(tables)[-1]][found[1]] = float(found[2])
    if process.returncode or len(tables) < 2:
        raise MissingError("isolation.py failed; its output is above")
    report.keep("isolation", versions=versions(ours.python), milliseconds=tables)
