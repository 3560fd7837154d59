"""Runs T1 to T7, each in a process of its own, so that a fault doesn't end the search.

The tests take their graphs from a directory, since compiling one takes minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_fault.report import Result

SECONDS = 570
"""Time limit of the search."""

TEST_SECONDS = 150
"""Time limit of a test whose graphs are compiled."""

_LAST_LINES = 20
"""Lines of a test's output that the file of figures keeps."""


def _places(side: Any) -> list[Result]:
    from benchmarks.gpu_fault.places import check_places

    return check_places(side, side.load("P0"))


def _lifetimes(side: Any) -> list[Result]:
    from benchmarks.gpu_fault.lifetimes import check_address, check_lifetimes

    graph = side.load("P0")
    return [check_lifetimes(side, graph), check_address(side, graph)]


def _synchronous(side: Any) -> list[Result]:
    from benchmarks.gpu_fault.lifetimes import check_synchronous

    return [check_synchronous(side)]


def _stages(name: str) -> Callable[[Any], list[Result]]:
    def check(side: Any) -> list[Result]:
        from benchmarks.gpu_fault.stages import check_stages
        from benchmarks.gpu_fault.variants import Variant

        return [check_stages(side, Variant(name), side.load(name))]

    return check


def _variant(name: str) -> Callable[[Any], list[Result]]:
    def check(side: Any) -> list[Result]:
        from benchmarks.gpu_fault.graphs import enable_checks
        from benchmarks.gpu_fault.stages import check_variant
        from benchmarks.gpu_fault.variants import Variant

        if Variant(name).is_checked:
            enable_checks()
        return [check_variant(side, Variant(name))]

    return check


def _containment(side: Any) -> list[Result]:
    from benchmarks.gpu_fault.containment import check_containment

    return [check_containment(side, side.load("P0"))]


def _selection(side: Any) -> list[Result]:
    from benchmarks.gpu_fault.selection import check_selection

    return [check_selection(side.load("T7"), side.device)]


PROCESSES: dict[str, Callable[[Any], list[Result]]] = {
    "T1": _places,
    "T6": _containment,
    "T2-T3": _lifetimes,
    "T2-synchronous": _synchronous,
    "T4-P1": _stages("P1"),
    "T4-P2": _stages("P2"),
    "T5-P4": _variant("P4"),
    "T5-P3": _variant("P3"),
    "T7": _selection,
}
"""What each process runs, the most important first."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the search's options."""
    group = parser.add_argument_group("the search for wrong images")
    group.add_argument(
        "--find-images-fault",
        action="store_true",
        help="only find out which images come out wrong, and why (docs/gpu.md)",
    )
    group.add_argument("--json", type=Path, help="write all figures to this file")
    group.add_argument("--devices", choices=("gpu", "cpu"), default="gpu")
    group.add_argument("--model", choices=("demo", "11b"), default="demo")
    group.add_argument(
        "--graphs", type=Path, help="a folder of benchmarks.gpu_fault.compile_graphs"
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile graphs that are missing, for minutes each",
    )
    group.add_argument("--test", choices=PROCESSES, help=argparse.SUPPRESS)


def find_images_fault(arguments: argparse.Namespace) -> None:
    """Runs the tests, prints a verdict a line, and exits with 1 if one is bad."""
    if arguments.test:
        print(json.dumps(run_test(arguments)))
        return
    started = time.perf_counter()
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "devices": arguments.devices,
        "model": arguments.model,
        "tests": {},
    }
    good = True
    for name in PROCESSES:
        left = SECONDS - (time.perf_counter() - started)
        limit = None if _compiles(arguments) else max(min(left, TEST_SECONDS), 1)
        began = time.perf_counter()
        reply = _run_apart(name, arguments, limit)
        report |= reply.pop("about", {})
        for test, result in reply.pop("results").items():
            report["tests"][test] = {**result, **reply}
            report["tests"][test]["seconds"] = round(time.perf_counter() - began, 1)
            print(f"{test:8} {result['verdict']}", flush=True)
            good &= result["verdict"] in ("equal", "needs a GPU")
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if note := report.get("graphs"):
        print(f"the graphs are of older sources: {note}")
    print(f"{time.perf_counter() - started:.0f} s", flush=True)
    sys.exit(not good)


def _compiles(arguments: argparse.Namespace) -> bool:
    return arguments.compile or arguments.devices == "cpu"


def _run_apart(
    name: str, arguments: argparse.Namespace, limit: float | None
) -> dict[str, Any]:
    """Returns what a test's process printed, and the end of its other output."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--find-images-fault"]
    command += ["--test", name, "--devices", arguments.devices]
    command += ["--model", arguments.model]
    if arguments.graphs:
        command += ["--graphs", str(arguments.graphs)]
    if arguments.compile:
        command += ["--compile"]
    try:
        process = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        lines = _lines(error.stdout)
        return _failed(name, f"out of time after {limit:.0f} s", lines)
    lines = _lines(process.stdout)
    try:
        reply = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = lines[-1] if lines else "no output"
        return _failed(name, f"ended with code {process.returncode}: {last}", lines)
    reports = [line for line in lines[:-1] if "uninit" in line.lower()]
    if reports:
        for result in reply["results"].values():
            result["verdict"] = (
                f"{len(reports)} reads of memory that nothing has written, the first: "
                f"{reports[0]}; {result['verdict']}"
            )
    return {**reply, "output": (reports + lines[:-1])[-_LAST_LINES:]}


def _lines(output: str | bytes | None) -> list[str]:
    if isinstance(output, bytes):
        output = output.decode(errors="replace")
    return (output or "").strip().splitlines()


def _failed(name: str, verdict: str, lines: list[str]) -> dict[str, Any]:
    return {"results": {name: {"verdict": verdict}}, "output": lines[-_LAST_LINES:]}


def run_test(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the tests of a process and returns their results as JSON values."""
    from max.driver import CPU, Accelerator, accelerator_count

    from benchmarks.gpu_fault.graphs import COMMITTED, ProbeGraphs
    from benchmarks.gpu_fault.vision_side import VisionSide
    from mllama.demo_model import GRAPHS_PATH
    from mllama.errors import MllamaError

    on_cpu = arguments.devices == "cpu"
    if not on_cpu and not accelerator_count():
        sys.exit("error: MAX finds no GPU here; --devices cpu tries the search itself")
    default = GRAPHS_PATH / "float32-x86-64-v3" if on_cpu else COMMITTED
    graphs = ProbeGraphs(
        arguments.graphs or default, compiles_missing=_compiles(arguments)
    )
    device = CPU() if on_cpu else Accelerator(0)
    side = VisionSide(device, graphs, arguments.model)
    try:
        results = PROCESSES[arguments.test](side)
        note = None
        if not _compiles(arguments):
            note = graphs.check(side.config.model, device)
    except MllamaError as error:
        sys.exit(f"error: {error}")
    return {
        "about": {
            "device": "cpu" if on_cpu else f"{device.model_name} {device.api}",
            "graphs": note,
        },
        "results": {result.test: result.to_dict() for result in results},
    }
