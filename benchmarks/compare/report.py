"""Formats the results of runs as Markdown tables that also read in a terminal.

Each run has a column, so that machines with different instructions stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.compare.figures import figures
from benchmarks.compare.metrics import METRICS, Metric
from benchmarks.compare.results import Results
from benchmarks.compare.targets import TARGETS, Target, Verdict, verdict
from benchmarks.compare.variants import DEMO, OURS

_LAST_ENGINES = ("transformers", "llama_cpp", "ik_llama_cpp", "mistralrs")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with aligned columns."""
    cells = [list(map(str, row)) for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def measured_table(runs: Sequence[Results]) -> str:
    """Returns the table of medians, each with its range and number of samples."""
    rows: list[list[str]] = []
    for name, metric in METRICS.items():
        titles = [metric.letter, metric.title, metric.unit]
        for engine in _engines(runs, name) if metric.letter else []:
            rows.append([*titles, engine, *(_cell(run, name, engine) for run in runs)])
            titles = ["", "", ""]
    return table(["", "workload", "unit", "engine", *_names(runs)], rows)


def _engines(runs: Sequence[Results], metric: str) -> list[str]:
    """Returns the engines that have samples of a metric or failed, ours first."""
    seen = {
        engine
        for run in runs
        for engine in (*run.samples.get(metric, {}), *run.failures.get(metric, {}))
    }

    def place(engine: str) -> tuple[int, str]:
        if engine in _LAST_ENGINES:
            return 2 + _LAST_ENGINES.index(engine), engine
        return int(engine not in (OURS, DEMO)), engine

    return sorted(seen, key=place)


def _cell(run: Results, name: str, engine: str) -> str:
    values = run.samples.get(name, {}).get(engine)
    if not values:
        failed = run.failures.get(name, {}).get(engine)
        return f"failed: {failed[:60]}" if failed else ""
    metric, median = METRICS[name], run.median(name, engine)
    assert median is not None
    low, middle, high = (_number(metric, v) for v in (min(values), median, max(values)))
    return f"{middle} ({low}-{high}, {len(values)})"


def _number(metric: Metric, value: float) -> str:
    return f"{metric.factor * value:.{metric.digits}f}"


def _names(runs: Sequence[Results]) -> list[str]:
    return [run.form or "measured" for run in runs]


def ceilings_table(runs: Sequence[Results]) -> str:
    """Returns the table of the machine's ceilings: the median, and all values in the
    order of measuring."""

    def cell(run: Results, name: str, metric: Metric) -> str:
        values = run.samples.get(name, {}).get("machine")
        if not values:
            return ""
        median = run.median(name, "machine")
        assert median is not None
        every = ", ".join(_number(metric, value) for value in values)
        return f"{_number(metric, median)} ({every})"

    rows = [
        [f"{metric.title}, {metric.unit}", *(cell(run, name, metric) for run in runs)]
        for name, metric in METRICS.items()
        if not metric.letter and any(run.samples.get(name) for run in runs)
    ]
    return table(["ceiling", *_names(runs)], rows)


def _has_ceilings(run: Results) -> bool:
    return any("machine" in by_engine for by_engine in run.samples.values())


def targets_table(runs: Sequence[Results], letters: str) -> str:
    """Returns the table of targets and measured values, with PASS or the shortfall."""
    measured = [(figures(run), run.form) for run in runs]
    rows = []
    for target in TARGETS:
        if target.letter not in letters:
            continue
        found = [verdict(target, values, form) for values, form in measured]
        if any(found):
            titles = [target.letter, target.workload, _limit(target)]
            rows.append([*titles, *map(_verdict_cell, found)])
    return table(["", "workload", "target", *_names(runs)], rows)


def _limit(target: Target) -> str:
    limit = "at most" if target.is_most else "at least"
    return f"{limit} {target.formatted(target.limit)} {target.of}"


def _verdict_cell(found: Verdict | None) -> str:
    if found is None:
        return ""
    if found.value is None:
        return found.text
    return f"{found.target.formatted(found.value)}, {found.text}"


_VERSIONS = frozenset(
    (
        "mllama",
        "max",
        "kernels",
        "transformers",
        "torch",
        "llama-cpp-python",
        "ik-llama-cpp-python",
        "mistralrs",
    )
)
"""Facts about the engines that a summary names; several engines may share one."""


def summary(runs: Sequence[Results], letters: str) -> str:
    """Returns whole runs in Markdown, side by side."""
    parts = [
        "\n".join(f"- {_run_line(run)}" for run in runs),
        "Medians, with range and number of samples in brackets:",
        measured_table(runs),
        *([ceilings_table(runs)] if any(map(_has_ceilings, runs)) else []),
        targets_table(runs, letters),
    ]
    failures = dict.fromkeys(
        f"- {METRICS[metric].title if metric in METRICS else metric}, "
        f"{engine}: {reason}"
        for run in runs
        for metric, by_engine in run.failures.items()
        for engine, reason in by_engine.items()
    )
    if failures:
        parts.append("What failed:\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n"


def _run_line(run: Results) -> str:
    """Returns when, where and of which versions a run was."""
    machine = run.machine
    versions = ", ".join(
        dict.fromkeys(
            str(value) if key == "kernels" else f"{key} {value}"
            for about in run.engines.values()
            for key, value in about.items()
            if key in _VERSIONS
        )
    )
    return (
        f"{run.date[:16].replace('T', ' ')} UTC, `{run.command}`: "
        f"{machine.get('cores')} cores of {machine.get('cpu')}, "
        f"{machine.get('memory_gib')} GiB, load {machine.get('load_average')} at the "
        f"start, {machine.get('threads')} threads for every engine"
        + (f"; {versions}." if versions else ".")
    )
