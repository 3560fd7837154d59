"""Writes the files of a run and the measured part of `docs/performance.md`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare.environments import EnvironmentFailure, prepare
from benchmarks.compare.report import summary
from benchmarks.compare.request_parts import request_parts
from benchmarks.compare.results import Results

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "performance.md"
PLOTS = {
    "request.svg": "Where the time of one request goes",
    "growth.svg": "What a request costs as its parts grow",
}

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_run(results: Results, letters: str, folder: Path) -> None:
    """Writes the JSON, Markdown and plots of a run to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / "results.json")
    (folder / "results.md").write_text(summary([results], letters), encoding="utf-8")
    draw(results, folder)


def draw(results: Results, folder: Path) -> None:
    """Draws the plots that a run's results have data for."""
    parts = folder / "parts.json"
    parts.write_text(json.dumps(request_parts(results), indent=1) + "\n")
    if not (results.operations or results.growth):
        return
    try:
        python = prepare("plot")
    except EnvironmentFailure as error:
        print(f"no plots: {error}", file=sys.stderr)
        return
    script = Path(__file__).with_name("plots.py")
    arguments = [folder / "results.json", parts, folder]
    subprocess.run([str(python), str(script), *map(str, arguments)], check=True)


def with_measured(document: str, measured: str) -> str:
    """Returns a document with the text between its two markers replaced.

    Raises:
        ValueError: If the document doesn't have each marker once, in this order.
    """
    before, found, rest = document.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found or not found_end or BEGIN in rest or END in after:
        raise ValueError(f"the document needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{measured.strip()}\n\n{END}{after}"


def write_document(runs: Sequence[Path], letters: str) -> None:
    """Writes runs' tables and the first one's plots into `docs/performance.md`.

    Args:
        runs: Folders that :func:`write_run` wrote.
        letters: The letters of the workloads.
    """
    results = [Results.read(run / "results.json") for run in runs]
    measured = summary(results, letters)
    folder = DOCUMENT.with_suffix("")
    for name, title in PLOTS.items():
        if (runs[0] / name).is_file():
            folder.mkdir(exist_ok=True)
            shutil.copyfile(runs[0] / name, folder / name)
            measured += f"\n![{title}]({folder.name}/{name})\n"
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_measured(document, measured), encoding="utf-8")
