"""T4 and T5: the first stage of the network at which equal pictures differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu_fault.comparison import Comparison, compare, to_array
from benchmarks.gpu_fault.places import compare_places, describe
from benchmarks.gpu_fault.report import NEEDS_GPU, Result
from benchmarks.gpu_fault.variants import INPUTS as INPUT_STAGES
from benchmarks.gpu_fault.variants import Variant, stage_names
from benchmarks.gpu_fault.vision_side import (
    INPUTS,
    ObservedGraph,
    RecordedUploads,
    VisionSide,
)


def check_stages(side: VisionSide, variant: Variant, graph: Any) -> Result:
    """Runs T4: the stages of ``[A, A, A]`` after a run of ``[B, B, B]``.

    Args:
        side: The vision side.
        variant: P1 or P2.
        graph: Its graph, loaded.
    """
    uploads = RecordedUploads(side.device)
    observed = ObservedGraph(graph, side.device)
    probe = side.probe(observed, uploads)
    names = stage_names(side.config.model, variant)
    tiles = side.vision.max_num_tiles

    def stages(letters: str) -> dict[str, npt.NDArray[Any]]:
        probe.run(side.pictures(letters, tiles), is_sacrificial=False)
        return dict(zip(names, map(to_array, observed.outputs[1:]), strict=True))

    before, now = stages("BBB"), stages("AAA")
    figures: dict[str, Any] = {}
    wrong = []
    for name, values in now.items():
        if name in INPUT_STAGES:
            array = uploads.original(observed.inputs[INPUTS[name]])
            comparison = compare(values, np.concatenate([array, array]))
            figures[name] = {"as uploaded": comparison.to_dict()}
            if not comparison.is_equal:
                wrong.append(f"{name} as the kernels read it: {comparison} (H1)")
            continue
        comparisons = _between_images(values, before[name], side)
        figures[name] = {pair: each.to_dict() for pair, each in comparisons.items()}
        wrong += [f"{name}, {line}" for line in describe(comparisons)]
    if wrong:
        # The first stage is the finding; those behind it inherit it.
        wrong = [f"first at {wrong[0]}"]
    return Result.of(f"T4 {variant.value}", figures, wrong)


def _between_images(
    values: npt.NDArray[Any], before: npt.NDArray[Any], side: VisionSide
) -> dict[str, Comparison]:
    """Compares the three images of a stage with each other."""
    first, second, third = _by_image(values, side)
    old = _by_image(before, side)
    others = {
        "zeros": np.zeros_like(first),
        "the previous run's (stale reads)": old[0],
        "another picture's": old[1],
    }
    return {
        "images 0 and 1": compare(first, second, others),
        "images 2 and 1": compare(third, second, others),
    }


def _by_image(values: npt.NDArray[Any], side: VisionSide) -> npt.NDArray[Any]:
    """Returns a stage as ``[3 images, rows, width]``."""
    width = values.shape[-1]
    if values.shape[0] == 3 and values.ndim == 2:
        # A look-up of all that an image's aspect ratio has.
        width = side.vision.hidden_size
    return values.reshape(3, -1, width)


def check_variant(side: VisionSide, variant: Variant) -> Result:
    """Runs T5: P3, whose checks print what they find, or P4.

    The process must not have a session yet for P3.
    """
    name = f"T5 {variant.value}"
    if variant.is_checked and side.device.is_host:
        return Result(name, NEEDS_GPU)
    observed = ObservedGraph(side.load(variant.value), side.device)
    comparisons, _ = compare_places(
        side, side.probe(observed), side.vision.max_num_tiles
    )
    figures = {name: each.to_dict() for name, each in comparisons.items()}
    lines = describe(comparisons)
    if lines and variant is Variant.THREE_DIMENSIONS:
        lines.append("if P0 is right, states of three dimensions are the cause (H2)")
    return Result.of(name, figures, lines)
