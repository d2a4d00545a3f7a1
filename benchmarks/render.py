"""Measures how long Cookiecutter takes to render the template, compared with an empty one."""

import json
import os
import shutil
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks import report
from benchmarks.environment import BUILD, ROOT, render

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))


def run() -> None:
    templates = {"template": ROOT, "empty": _empty(BUILD / "empty")}
    rounds: dict[str, list[float]] = {name: [] for name in templates}
    target = BUILD / "rendered-again"
    for number in range(ROUNDS + 1):
        for name, template in templates.items():
            shutil.rmtree(target, ignore_errors=True)
            start = perf_counter()
            render(template, target)
            if number:  # the first round is a warm-up
                rounds[name].append(perf_counter() - start)
    shutil.rmtree(target)

    ratio = median(a / b for a, b in zip(*rounds.values(), strict=True))
    report.show(
        "cookiecutter --no-input",
        ["", "seconds", "ratio"],
        [
            ["template", f"{median(rounds['template']):.2f}", report.cell(ratio)],
            ["empty", f"{median(rounds['empty']):.2f}", report.cell(1)],
        ],
    )
    report.keep("render", settings={"rounds": ROUNDS}, ratio=ratio, rounds=rounds)


def _empty(folder: Path) -> Path:
    """Return a template with one question and one file."""
    project = folder / "{{cookiecutter.name}}"
    project.mkdir(parents=True, exist_ok=True)
    (folder / "cookiecutter.json").write_text(json.dumps({"name": "empty"}))
    (project / "README.md").write_text("{{cookiecutter.name}}\n")
    return folder
