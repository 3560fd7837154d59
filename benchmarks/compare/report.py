"""Formats the results of a run as Markdown tables that also read in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.compare.figures import figures
from benchmarks.compare.results import Results
from benchmarks.compare.targets import verdicts


@dataclass(frozen=True)
class Metric:
    """A row of the table: the workload's letter, its title, unit and scale."""

    letter: str
    title: str
    unit: str = "s"
    factor: float = 1.0
    digits: int = 2


METRICS = {
    "vision_4_tiles": Metric("a", "pixels to cross-attention K/V, 4 valid tiles"),
    "vision_1_tile": Metric("a", "pixels to cross-attention K/V, 1 valid tile"),
    "first_token_image": Metric("b", "first token, 4 tiles, 176 tokens of text"),
    "first_token_image_1_tile": Metric("b", "first token, 1 tile, 176 tokens of text"),
    "decode_image": Metric("c", "a token after a 4-tile image", "ms", 1e3, 1),
    "decode_image_1_tile": Metric("c", "a token after a 1-tile image", "ms", 1e3, 1),
    "step_4_tiles": Metric("c", "its text graph alone, 4 tiles", "ms", 1e3, 1),
    "step_1_tile": Metric("c", "its text graph alone, 1 tile", "ms", 1e3, 1),
    "readable_in_a_step": Metric("c", "what can be read in its time", "GB", digits=3),
    "first_token_text": Metric("d", "first token, text of 512"),
    "decode_text": Metric("d", "a token after text of 512", "ms", 1e3, 1),
    "follow_up": Metric("e", "first token, another question on that image", digits=3),
    "streams_1": Metric("f", "1 stream", "tokens/s", digits=1),
    "streams_4": Metric("f", "4 streams", "tokens/s", digits=1),
    "streams_8": Metric("f", "8 streams", "tokens/s", digits=1),
    "demo_token": Metric("g", "demo model, a token", "ms", 1e3, 2),
    "around_the_model": Metric("g", "of it not in the text graph", "ms", 1e3, 2),
    "sampling": Metric("g", "of that choosing tokens", "ms", 1e3, 2),
    "install": Metric("h", "installing the wheel in an empty environment", digits=1),
    "first_generate": Metric("h", "first `mllama generate` about a picture", digits=1),
    "first_generate_load": Metric("h", "of it loading MAX and the model"),
    "first_generate_answer": Metric("h", "of it the answer"),
    "later_generate": Metric("h", "the same again"),
    "later_generate_load": Metric("h", "of it loading MAX and the model"),
    "later_generate_answer": Metric("h", "of it the answer"),
    "import_max": Metric("h", "importing MAX's pipelines"),
    "first_demo": Metric("h", "first `mllama demo`, nine answers", digits=1),
    "compile": Metric("h", "compiling and saving the benchmarked model", digits=0),
    "read_bandwidth": Metric("", "read bandwidth", "GB/s", digits=1),
    "bandwidth_between_steps": Metric(
        "", "the same between c's steps", "GB/s", digits=1
    ),
    "bandwidth_after_operations": Metric(
        "", "the same just after its operations were timed", "GB/s", digits=1
    ),
    "float32_peak": Metric("", "float32 multiply-adds", "GFLOP/s", digits=0),
    "int8_peak": Metric("", "int8 multiply-adds", "Gop/s", digits=0),
}
"""All metrics in the order of the table."""

_FIRST_ENGINES = ("mllama", "demo", "transformers", "llama_cpp", "mistralrs")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with aligned columns."""
    cells = [list(map(str, row)) for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def measured_table(results: Results) -> str:
    """Returns the table of medians, each with its range and number of samples."""
    named = [m for m in METRICS if m in results.samples or m in results.failures]
    seen = {
        engine
        for metric in named
        for engine in [
            *results.samples.get(metric, {}),
            *results.failures.get(metric, {}),
        ]
    } - {"machine"}
    engines = [name for name in _FIRST_ENGINES if name in seen]
    engines += sorted(seen - set(engines))

    def cell(name: str, engine: str) -> str:
        values = results.samples.get(name, {}).get(engine)
        if not values:
            failed = results.failures.get(name, {}).get(engine)
            return f"failed: {failed[:60]}" if failed else ""
        metric, median = METRICS[name], results.median(name, engine)
        assert median is not None
        low, middle, high = (
            f"{metric.factor * v:.{metric.digits}f}"
            for v in (min(values), median, max(values))
        )
        return f"{middle} ({low}-{high}, {len(values)})"

    rows = [
        [
            METRICS[name].letter,
            METRICS[name].title,
            METRICS[name].unit,
            *(cell(name, engine) for engine in engines),
        ]
        for name in named
        if METRICS[name].letter
    ]
    return table(["", "workload", "unit", *engines], rows)


def ceilings_table(results: Results) -> str:
    """Returns the table of the machine's ceilings in the order of measuring."""
    rows = []
    for name, metric in METRICS.items():
        values = results.samples.get(name, {}).get("machine", [])
        median = results.median(name, "machine")
        if metric.letter or median is None:
            continue
        rows.append(
            [
                f"{metric.title}, {metric.unit}",
                f"{median:.{metric.digits}f}",
                ", ".join(f"{value:.{metric.digits}f}" for value in values),
            ]
        )
    return table(["ceiling", "median", "in the order of measuring"], rows)


def targets_table(results: Results, letters: str) -> str:
    """Returns the table of targets and measured values, with PASS or the shortfall."""
    rows = []
    for verdict in verdicts(figures(results), letters):
        target, value = verdict.target, verdict.value
        limit = "at most" if target.is_most else "at least"
        rows.append(
            [
                target.letter,
                target.workload,
                f"{limit} {target.formatted(target.limit)} {target.of}",
                "-" if value is None else target.formatted(value),
                verdict.text,
            ]
        )
    return table(["", "workload", "target", "measured", ""], rows)


_VERSIONS = frozenset(
    (
        "mllama",
        "max",
        "kernels",
        "transformers",
        "torch",
        "llama-cpp-python",
        "mistralrs",
    )
)
"""Facts about the engines that a summary names; several engines may share one."""


def summary(results: Results, letters: str) -> str:
    """Returns a whole run in Markdown."""
    machine = results.machine
    versions = ", ".join(
        dict.fromkeys(
            str(value) if key == "kernels" else f"{key} {value}"
            for about in results.engines.values()
            for key, value in about.items()
            if key in _VERSIONS
        )
    )
    engines = f" {versions}." if versions else ""
    parts = [
        f"{results.date[:16].replace('T', ' ')} UTC, `{results.command}`: "
        f"{machine.get('cores')} cores of {machine.get('cpu')}, "
        f"{machine.get('memory_gib')} GiB, load {machine.get('load_average')} at the "
        f"start, {machine.get('threads')} threads for every engine.{engines}",
        "Medians, with range and number of samples in brackets:",
        measured_table(results),
        ceilings_table(results),
        targets_table(results, letters),
    ]
    failures = [
        f"- {METRICS[metric].title if metric in METRICS else metric}, "
        f"{engine}: {reason}"
        for metric, by_engine in results.failures.items()
        for engine, reason in by_engine.items()
    ]
    if failures:
        parts.append("What failed:\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n"
