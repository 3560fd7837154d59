"""Draws a run: `plots.py RESULTS.json PARTS.json FOLDER`, in the environment `plot`.

Gives `request.svg`, where the time of one request goes, and `growth.svg`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "mllama"

from matplotlib import pyplot as plt  # noqa: E402


def draw_request(parts: dict[str, float], path: Path) -> None:
    """Draws a bar with the seconds of each part of a request."""
    names, seconds = list(parts), list(parts.values())
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(names) + 1))
    bars = axes.barh(names, seconds, color="tab:blue")
    total = sum(seconds)
    labels = [f" {value:.3f} s, {100 * value / total:.1f} %" for value in seconds]
    axes.bar_label(bars, labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(seconds))
    axes.set_xlabel(f"seconds of {total:.2f}")
    axes.set_title("one question about a new image of four tiles, 49 tokens answered")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def draw_growth(growth: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """Draws a row of plots for each axis, with a curve for each metric."""
    most = max(map(len, growth.values()))
    figure, rows = plt.subplots(
        len(growth), most, figsize=(3.2 * most, 2.6 * len(growth)), squeeze=False
    )
    for row, (axis, curves) in zip(rows, growth.items(), strict=True):
        for place in row:
            place.set_visible(False)
        for place, (title, points) in zip(row, curves.items(), strict=False):
            place.set_visible(True)
            x, y = zip(*points, strict=True)
            place.plot(x, [1000 * value for value in y], marker="o")
            place.set_ylim(bottom=0)
            place.set_xlim(left=0)
            place.set_xlabel(axis, fontsize=8)
            place.set_ylabel("ms", fontsize=8)
            place.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draws the plots that the results have data for."""
    results: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    parts = json.loads(Path(sys.argv[2]).read_text())
    folder = Path(sys.argv[3])
    if parts:
        draw_request(parts, folder / "request.svg")
    if results["growth"]:
        draw_growth(results["growth"], folder / "growth.svg")


if __name__ == "__main__":
    main()
