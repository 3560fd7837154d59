"""T2 and T3: whether the fault depends on when memory is used, or on its address."""

from __future__ import annotations

from typing import Any

import numpy as np
from max.driver import Buffer
from max.engine import InferenceSession

from benchmarks.gpu_fault.comparison import Comparison, to_array
from benchmarks.gpu_fault.places import compare_places, describe
from benchmarks.gpu_fault.report import NEEDS_GPU, Result
from benchmarks.gpu_fault.vision_side import (
    INPUTS,
    DroppedUploads,
    ObservedGraph,
    VisionSide,
)

IDS_BEFORE = 8
"""Elements of the longer buffer before the ids."""


def check_lifetimes(side: VisionSide, graph: Any) -> Result:
    """Runs T2 (i): nothing kept, all kept, and all kept with a synchronized device.

    Args:
        side: The vision side.
        graph: P0, loaded.
    """
    ways = {
        "inputs dropped at once": (
            ObservedGraph(graph, side.device, keeps=False),
            DroppedUploads([side.device]),
        ),
        "inputs kept": (ObservedGraph(graph, side.device), None),
        "inputs kept, device synchronized": (
            ObservedGraph(graph, side.device, synchronizes=True),
            None,
        ),
    }
    found = {
        way: _places(side, observed, uploads)
        for way, (observed, uploads) in ways.items()
    }
    wrong = [
        f"{way}: {lines[0]}" for way, each in found.items() if (lines := describe(each))
    ]
    dropped, kept, synchronized = (bool(describe(each)) for each in found.values())
    if dropped and not kept:
        wrong.append("keeping the inputs cures it: lifetimes (H1, H3)")
    elif kept and not synchronized:
        wrong.append("synchronizing cures it: lifetimes or overlapping runs (H1, H3)")
    return Result.of("T2 (i)", _figures(found), wrong)


def check_synchronous(side: VisionSide) -> Result:
    """Runs T2 (ii): MAX waits for the device after each operation.

    The process must not have a session yet.
    """
    if side.device.is_host:
        return Result("T2 (ii)", NEEDS_GPU)
    InferenceSession.debug.device_sync_mode = True
    found = {
        "device_sync_mode": _places(side, ObservedGraph(side.load("P0"), side.device))
    }
    wrong = describe(found["device_sync_mode"])
    return Result.of("T2 (ii)", _figures(found), wrong)


def check_address(side: VisionSide, graph: Any) -> Result:
    """Runs T3: the aspect ratio ids are elements of a longer buffer.

    Args:
        side: The vision side.
        graph: P0, loaded.
    """
    index, kept = INPUTS["ids"], []

    def inside_longer_buffer(inputs: list[Any]) -> list[Any]:
        ids = inputs[index]
        host = to_array(ids)
        longer = np.concatenate([np.ones(IDS_BEFORE, host.dtype), host])
        buffer = Buffer.from_numpy(longer).to(side.device)
        kept.extend((longer, buffer))
        inputs[index] = buffer[IDS_BEFORE : IDS_BEFORE + len(host)]
        return inputs

    observed = ObservedGraph(graph, side.device, change=inside_longer_buffer)
    found = {"ids from the ninth element on": _places(side, observed)}
    (lines,) = map(describe, found.values())
    return Result.of("T3", _figures(found), lines)


def _places(
    side: VisionSide, observed: ObservedGraph, uploads: Any = None
) -> dict[str, Comparison]:
    probe = side.probe(observed, uploads)
    return compare_places(side, probe, side.vision.max_num_tiles)[0]


def _figures(found: dict[str, dict[str, Comparison]]) -> dict[str, Any]:
    return {
        way: {name: each.to_dict() for name, each in comparisons.items()}
        for way, comparisons in found.items()
    }
