"""The raw results of a run and their file."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA = 1

Samples = dict[str, dict[str, list[float]]]
"""Samples by metric and engine."""


@dataclass
class Results:
    """The results of a run.

    Attributes:
        date: Start of the run in UTC, as ISO 8601.
        command: The command line.
        machine: Processor, cores, memory, load at the start, threads, and the form of
            the custom ops.
        engines: Versions and threads of each engine.
        model: Tokens, layers, bytes and parameters read of the benchmarked model.
        samples: All measurements, in seconds unless the metric has another unit.
        failures: Reasons why an engine has no samples of a metric.
        operations: Seconds of MAX's operations in one request, by phase and name.
        growth: Points of value and seconds, by axis and metric.
        schema: Version of the file format.
    """

    date: str
    command: str
    machine: dict[str, Any]
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    operations: dict[str, dict[str, float]] = field(default_factory=dict)
    growth: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def form(self) -> str:
        """Returns the form of the custom ops, such as AVX2."""
        return str(self.machine.get("form", ""))

    def add(self, metric: str, engine: str, value: float) -> None:
        """Adds a measurement."""
        self.samples.setdefault(metric, {}).setdefault(engine, []).append(float(value))

    def fail(self, metric: str, engine: str, reason: str) -> None:
        """Records why there is no measurement."""
        self.failures.setdefault(metric, {})[engine] = reason

    def median(self, metric: str, engine: str) -> float | None:
        """Returns the median of all samples, or None if there are none."""
        samples = self.samples.get(metric, {}).get(engine)
        return statistics.median(samples) if samples else None

    def write(self, path: Path) -> None:
        """Writes the results as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads a file that :meth:`write` wrote.

        Raises:
            ValueError: If the file has another format or schema.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path} is not of schema {SCHEMA}")
        known = {each.name for each in fields(cls)}
        if set(content) != known:
            raise ValueError(f"{path}: {sorted(set(content) ^ known)} don't fit")
        for metric, by_engine in content["samples"].items():
            for engine, values in by_engine.items():
                if not values or not all(isinstance(v, (int, float)) for v in values):
                    raise ValueError(
                        f"{path}: {metric} of {engine} is no list of numbers"
                    )
        return cls(**content)
