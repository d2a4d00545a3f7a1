"""Output of a benchmark: a table in the terminal, a JSON file, an SVG plot."""

import json
import os
import platform
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.environment import BUILD
from benchmarks.processes import CORES

STYLE = """
    .ground { fill: #ffffff } text { fill: #24292f; font: 13px system-ui, sans-serif }
    .bar { fill: #8c959f } .ours { fill: #0969da } .line { stroke: #24292f; stroke-dasharray: 2 3 }
    .title { font-weight: 600 } .small { font-size: 11px }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #0d1117 } text { fill: #e6edf3 }
      .bar { fill: #6e7681 } .ours { fill: #58a6ff } .line { stroke: #e6edf3 }
    }
"""

LABELS, PANEL, GAP, ROW, HEAD = 246, 190, 22, 24, 40  # pixels
VALUE = 50  # space for the number to the right of the longest bar
LONGEST = 1.5  # ratio; longer bars are cut, so that differences between the others are visible


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Its first column is text, the others are numbers."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print(row[0].ljust(len(first)), *others, sep="   ")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, ["---"] * len(header), *rows])


def keep(mode: str, **figures: Any) -> Path:
    """Write figures and a description of the machine to build/bench, as JSON."""
    target = BUILD / f"{mode}.json"
    machine = {"cores": len(CORES), "kernel": platform.release(), "machine": platform.machine()}
    target.write_text(json.dumps({"mode": mode, "on": machine} | figures, indent=1) + "\n")
    print(f"\n{os.path.relpath(target)}")
    return target


def plot(
    caption: str, panels: Sequence[str], ratios: dict[str, Sequence[float | None]], *, ours: str
) -> str:
    """Return an SVG with a panel of bars for each column of ratios, and a line at 1."""
    scale = (PANEL - VALUE) / LONGEST
    width = LABELS + len(panels) * (PANEL + GAP)
    bottom = HEAD + len(ratios) * ROW
    shapes = [f'<rect class="ground" width="{width}" height="{bottom + 36}" rx="6"/>']
    for name, y in zip(ratios, range(HEAD, bottom, ROW), strict=True):
        shapes.append(
            f'<text x="{LABELS - 10}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
        )
    for number, panel in enumerate(panels):
        left = LABELS + number * (PANEL + GAP)
        shapes.append(f'<text class="title" x="{left}" y="26">{escape(panel)}</text>')
        for (name, row), y in zip(ratios.items(), range(HEAD, bottom, ROW), strict=True):
            ratio = row[number]
            length = min(ratio or 0, LONGEST) * scale
            kind = "bar ours" if name == ours else "bar"
            value = "-" if ratio is None else f"{ratio:.2f}"
            value = f"→ {value}" if (ratio or 0) > LONGEST else value
            shapes += [
                f'<rect class="{kind}" x="{left}" y="{y + 3}" width="{length:.1f}" height="16"/>',
                f'<text x="{left + PANEL}" y="{y + 15}" text-anchor="end">{value}</text>',
            ]
        one = left + scale
        shapes.append(
            f'<line class="line" x1="{one:.1f}" x2="{one:.1f}" y1="{HEAD - 4}" y2="{bottom}"/>'
        )
    shapes.append(f'<text class="small" x="12" y="{bottom + 22}">{escape(caption)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 36}" '
        f'width="{width}" role="img">\n<title>{escape(caption)}</title>\n'
        f"<style>{STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
