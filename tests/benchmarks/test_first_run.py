"""The first run is measured in stages, each in an empty home."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import first_run
from benchmarks.compare.figures import figures
from benchmarks.compare.first_run import measure_first_run
from benchmarks.compare.report import METRICS
from benchmarks.compare.results import Results

ANSWER = {
    "completion_tokens": 5,
    "tokens_per_second": 2.0,
    "time_to_first_token_seconds": 1.0,
    "load_seconds": 0.5,
}


@pytest.fixture
def results() -> Results:
    return Results(date="2026-11-29T00:00:00", command="x", machine={})


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """The commands that are run, none of which takes any time."""
    commands: list[tuple[list[str], dict[str, str]]] = []

    def output(command: list[Any], variables: dict[str, str]) -> str:
        commands.append(([str(part) for part in command], variables))
        if "build" in command:
            (Path(command[command.index("-o") + 1]) / "mllama.whl").touch()
        return json.dumps(ANSWER)

    monkeypatch.setattr(first_run, "_output", output)
    return commands


def test_every_stage_is_measured(
    results: Results, ran: list[tuple[list[str], dict[str, str]]]
) -> None:
    measure_first_run(results, Path("model.gguf"), 3)
    assert set(results.samples) == {
        name for name, metric in METRICS.items() if metric.letter == "h"
    }
    for name in ("first", "later"):
        assert results.samples[f"{name}_generate_answer"]["mllama"] == [3.0] * 3
        assert results.samples[f"{name}_generate_load"]["mllama"] == [0.5] * 3
    assert len(results.samples["compile"]["mllama"]) == 1
    assert {"first_generate", "first_demo", "later_generate_over_import"} <= set(
        figures(results)
    )


def test_a_later_run_has_the_home_of_the_first_one_and_other_rounds_do_not(
    results: Results, ran: list[tuple[list[str], dict[str, str]]]
) -> None:
    measure_first_run(results, Path("model.gguf"), 2)
    homes = [variables["HOME"] for command, variables in ran if "generate" in command]
    assert homes[0] == homes[1]
    assert homes[2] == homes[3]
    assert homes[0] != homes[2]
    for _, variables in ran:
        assert all(value.startswith(variables["HOME"]) for value in variables.values())
    assert os.environ["HOME"] not in homes


def test_a_failing_command_is_reported_in_one_line(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(environment: Path) -> float:
        code = "import sys; sys.exit('no such\\nwheel')"
        return first_run._seconds([sys.executable, "-c", code], {})

    monkeypatch.setattr(first_run, "_install", install)
    measure_first_run(results, Path("model.gguf"), 1)
    failure = results.failures["first_generate"]["mllama"]
    assert failure.endswith(": wheel")
