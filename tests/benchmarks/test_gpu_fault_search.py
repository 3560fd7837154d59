"""The search runs every test apart, and ends with a verdict a line whatever happens."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_fault import search
from benchmarks.gpu_fault.search import add_options, find_images_fault

TESTS = ["T1", "T1b", "T6", "T2 (i)", "T3", "T2 (ii)", "T4 P1", "T4 P2", "T5 P4"]
TESTS += ["T5 P3", "T7"]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(["--find-images-fault", *arguments])


def replies(monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any]) -> list[Any]:
    """Gives the processes of tests made-up outputs; returns their time limits."""
    limits = []

    def run(command: list[str], **options: Any) -> Any:
        name = command[command.index("--test") + 1]
        limits.append(options["timeout"])
        output = outputs.get(name)
        if output is None:
            output = json.dumps({"results": {name: {"verdict": "equal"}}})
        if isinstance(output, Exception):
            raise output
        code = -6 if output.startswith("Fatal") else 0
        return subprocess.CompletedProcess(command, code, f"a warning\n{output}\n")

    monkeypatch.setattr(subprocess, "run", run)
    return limits


def test_a_test_that_dies_or_hangs_does_not_end_the_search(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    report = "SIMD load: uninitialized memory at 0x7f\n" + json.dumps(
        {"results": {"T5 P3": {"verdict": "equal", "figures": {}}}}
    )
    limits = replies(
        monkeypatch,
        {
            "T1": "Fatal Python error: CUDA_ERROR_ILLEGAL_ADDRESS",
            "T6": subprocess.TimeoutExpired("python", 9.0, b"half a line"),
            "T5-P3": report,
        },
    )
    file = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        find_images_fault(parsed("--json", str(file)))
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "T1       ended with code -6: Fatal Python error: CUDA_ERROR_ILLEGAL_ADDRESS"
    )
    assert lines[1] == f"T6       out of time after {search.TEST_SECONDS} s"
    assert lines[2] == "T2-T3    equal"
    assert "1 reads of memory that nothing has written" in lines[7]
    tests = json.loads(file.read_text())["tests"]
    assert tests["T6"]["output"] == ["half a line"]
    assert tests["T5 P3"]["output"][0].startswith("SIMD load")
    assert len(tests) == len(search.PROCESSES)
    assert max(limits) <= search.TEST_SECONDS


def test_a_good_gpu_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replies(monkeypatch, {})
    with pytest.raises(SystemExit) as ended:
        find_images_fault(parsed())
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:-1]] == ["equal"] * len(lines[:-1])


def test_without_a_gpu_the_way_out_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--find-images-fault"]
    ended = subprocess.run([*command, "--test", "T1"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "error: MAX finds no GPU here; --devices cpu tries the search itself"
    )


@pytest.mark.long
def test_the_whole_search_on_a_cpu(tmp_path: Path) -> None:
    """Compiles six graphs, unless MAX has them in its cache."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--find-images-fault"]
    command += ["--devices", "cpu", "--json", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdicts = {
        name: test["verdict"]
        for name, test in json.loads(file.read_text())["tests"].items()
    }
    needs_gpu = {"T2 (ii)", "T5 P3"}
    assert verdicts == {
        name: "needs a GPU" if name in needs_gpu else "equal" for name in TESTS
    }
    lines = ended.stdout.splitlines()[:-1]
    assert lines == [f"{name:8} {verdict}" for name, verdict in verdicts.items()]
