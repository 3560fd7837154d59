"""T6: whether a sacrificial image contains the fault, at each number of tiles."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_fault.report import Result
from benchmarks.gpu_fault.vision_side import ObservedGraph, VisionSide
from mllama.runtime.gpu_self_check import CheckedRuns, CheckFailure


def check_containment(side: VisionSide, graph: Any) -> Result:
    """Runs the self-check's pictures, with a marker in the memory around them.

    Args:
        side: The vision side.
        graph: P0, loaded.
    """
    probe = side.probe(ObservedGraph(graph, side.device))
    figures: dict[str, Any] = {}
    wrong = []
    for tiles in range(1, side.vision.max_num_tiles + 1):
        runs = CheckedRuns.of(probe, tiles)
        found: dict[str, str | None] = {}
        for name, check in (
            ("as they are", runs.check_first),
            ("behind a sacrificial image", runs.check_behind_first),
        ):
            try:
                check()
                found[name] = None
            except CheckFailure as failure:
                found[name] = f"{failure.stage.name.lower()}: {failure.detail}"
        figures[str(tiles)] = found
        if failed := found["behind a sacrificial image"]:
            wrong.append(f"{tiles} tiles: a sacrificial image doesn't help ({failed})")
        elif found["as they are"]:
            wrong.append(
                f"{tiles} tiles: a sacrificial image holds; without it "
                f"{found['as they are']}"
            )
    return Result.of("T6", figures, wrong)
