"""The search for wrong images says "equal" on a good device, and names faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Buffer

from benchmarks.gpu_fault.containment import check_containment
from benchmarks.gpu_fault.graphs import ProbeGraphs
from benchmarks.gpu_fault.lifetimes import (
    check_address,
    check_lifetimes,
    check_synchronous,
)
from benchmarks.gpu_fault.places import check_places
from benchmarks.gpu_fault.selection import check_selection
from benchmarks.gpu_fault.stages import check_stages, check_variant
from benchmarks.gpu_fault.variants import Variant, stage_names
from benchmarks.gpu_fault.vision_side import INPUTS, DroppedUploads, VisionSide
from demo.compile_graphs import FORM
from tests.runtime import gpu_faults
from tests.runtime.gpu_faults import Fault, FaultyGraph, Run

TILES = 4


@pytest.fixture(scope="module")
def side() -> VisionSide:
    """The demo model's vision side."""
    return VisionSide(CPU(), ProbeGraphs(FORM, compiles_missing=True))


@pytest.fixture(scope="module")
def p0(side: VisionSide) -> Any:
    """The vision graph."""
    return side.load("P0")


def with_fault(side: VisionSide, graph: Any, fault: Fault) -> FaultyGraph:
    return FaultyGraph(graph, fault, side.storage.blocks.num_pages)


def test_a_good_device_is_equal(side: VisionSide, p0: Any) -> None:
    results = [
        *check_places(side, p0),
        check_lifetimes(side, p0),
        check_address(side, p0),
        check_containment(side, p0),
    ]
    assert {result.test: result.verdict for result in results} == {
        "T1": "equal",
        "T1b": "equal",
        "T2 (i)": "equal",
        "T3": "equal",
        "T6": "equal",
    }
    pair = results[0].figures[f"{TILES} tiles"]["AAA, images 0 and 1"]
    assert pair["rows"] == TILES * 17
    assert pair["is_equal"]
    assert set(results[1].figures["1 tile"]) == set(INPUTS)


def test_what_needs_a_gpu(side: VisionSide) -> None:
    assert check_synchronous(side).verdict == "needs a GPU"
    assert check_variant(side, Variant.CHECKED).verdict == "needs a GPU"


class StaleRun:
    """Stores at the first place what the run before stored there."""

    def __init__(self) -> None:
        self.before: np.ndarray | None = None

    def __call__(self, run: Run) -> None:
        now = run.image(0).copy()
        if self.before is not None:
            run.image(0)[:] = self.before
        self.before = now


@pytest.mark.parametrize(
    ("make_fault", "words"),
    [
        (lambda: gpu_faults.first_place, ["all 68 rows (H1)", "nowhere else"]),
        (
            lambda: gpu_faults.first_tokens,
            ["the first 5 of 68 rows (a race or a stray"],
        ),
        (lambda: gpu_faults.misplaced, ["they are never written", "(H4)"]),
        (StaleRun, ["they are the previous run's"]),
        (lambda: gpu_faults.not_a_number_first, ["1 values not finite"]),
    ],
)
def test_t1_names_the_fault(
    side: VisionSide, p0: Any, make_fault: Callable[[], Fault], words: list[str]
) -> None:
    places, inputs = check_places(side, with_fault(side, p0, make_fault()))
    assert f"{TILES} tiles: AAA, images 0 and 1: " in places.verdict
    assert "AAA, images 2 and 1" not in places.verdict
    for word in words:
        assert word in places.verdict
    assert inputs.verdict == "equal"


class Changing:
    """A graph that changes an input in place before its run.

    Args:
        graph: The graph.
        change: Changes the inputs.
    """

    def __init__(self, graph: Any, change: Callable[[tuple[Any, ...]], None]) -> None:
        self.graph, self.change = graph, change

    def execute(self, *inputs: Any) -> Any:
        self.change(inputs)
        return self.graph.execute(*inputs)


def damaged_id(inputs: tuple[Any, ...]) -> None:
    inputs[INPUTS["ids"]].to_numpy()[0] = 3


def test_t1b_names_a_damaged_upload(side: VisionSide, p0: Any) -> None:
    _, inputs = check_places(side, Changing(p0, damaged_id))
    assert inputs.verdict == (
        "1 tile: ids changed (H1, the upload); 4 tiles: ids changed (H1, the upload)"
    )


def test_t2_names_lifetimes(side: VisionSide, p0: Any) -> None:
    def if_dropped(run: Run) -> None:
        if isinstance(side.storage.uploads, DroppedUploads):
            run.garbage(0)

    result = check_lifetimes(side, with_fault(side, p0, if_dropped))
    assert result.verdict.startswith("inputs dropped at once: AAA, images 0 and 1")
    assert result.verdict.endswith("keeping the inputs cures it: lifetimes (H1, H3)")


def test_t2_names_overlapping_runs(
    side: VisionSide, p0: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[None] = []
    monkeypatch.setattr(
        "benchmarks.gpu_fault.vision_side.ObservedGraph.wait",
        lambda self: waits.append(None),
    )

    def unless_waited(run: Run) -> None:
        if not waits:
            run.garbage(0)

    result = check_lifetimes(side, with_fault(side, p0, unless_waited))
    assert "synchronizing cures it" in result.verdict


def test_t3_reads_ids_at_another_address(side: VisionSide, p0: Any) -> None:
    seen = []

    def at(inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[INPUTS["ids"]].to_numpy().tolist())

    assert check_address(side, Changing(p0, at)).verdict == "equal"
    assert seen[1] == [side.pictures("A", TILES)[0].aspect_ratio_id] * 3

    def wrong_there(inputs: tuple[Any, ...]) -> None:
        inputs[INPUTS["ids"]].to_numpy()[0] = 1

    result = check_address(side, Changing(p0, wrong_there))
    assert "AAA, images 0 and 1: " in result.verdict


class Stages:
    """The vision graph with made-up stages, which depend on the pictures alone.

    Args:
        graph: The vision graph.
        names: The stages' names.
        first: The first stage that has garbage for the first image; None if none has.
    """

    def __init__(self, graph: Any, names: list[str], first: str | None) -> None:
        self.graph = graph
        self.names = names
        self.damaged = names[names.index(first) :] if first else []

    def execute(self, *inputs: Any) -> Any:
        """Runs the graph."""
        outputs = list(self.graph.execute(*inputs))
        for name in self.names:
            if name in INPUTS:
                values = np.concatenate([inputs[INPUTS[name]].to_numpy()] * 2)
                values[: name in self.damaged] = 0
            else:
                values = np.stack(
                    [made_up(int(pixels.sum())) for pixels in inputs[0].to_numpy()]
                )
                if name in self.damaged:
                    values[0] = made_up(None)
                if not name.startswith("projected"):
                    values = values.reshape(-1, values.shape[-1])
            outputs.append(Buffer.from_numpy(values))
        return outputs


def made_up(seed: int | None) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (12, 16)).astype(np.float32)


@pytest.mark.parametrize("first", ["local.1", "global.0", "projected"])
def test_t4_names_the_first_stage_that_differs(
    side: VisionSide, p0: Any, first: str
) -> None:
    names = stage_names(side.config.model, Variant.STATES)
    result = check_stages(side, Variant.STATES, Stages(p0, names, first))
    assert result.verdict.startswith(f"first at {first}, images 0 and 1: ")
    assert "in all 12 rows (H1)" in result.verdict
    assert list(result.figures) == names
    result = check_stages(side, Variant.STATES, Stages(p0, names, None))
    assert result.verdict == "equal"


def test_t4_names_an_input_that_kernels_misread(side: VisionSide, p0: Any) -> None:
    names = stage_names(side.config.model, Variant.STATES)
    result = check_stages(side, Variant.STATES, Stages(p0, names, "ids"))
    assert result.verdict.startswith("first at ids as the kernels read it: ")


@pytest.mark.long
@pytest.mark.parametrize("variant", [Variant.STATES, Variant.EMBEDDINGS])
def test_t4_is_equal_and_sees_a_wrong_id(side: VisionSide, variant: Variant) -> None:
    """An id that is wrong inside the graph shows where it is looked up first."""
    graph = side.load(variant.value)
    result = check_stages(side, variant, graph)
    assert result.verdict == "equal"
    assert list(result.figures) == stage_names(side.config.model, variant)

    class WrongId:
        def execute(self, *inputs: Any) -> Any:
            ids = inputs[INPUTS["ids"]].to_numpy().copy()
            ids[0] = 1
            at = INPUTS["ids"]
            changed = [*inputs[:at], Buffer.from_numpy(ids), *inputs[at + 1 :]]
            return graph.execute(*changed)

    first = "ids as the kernels" if variant is Variant.STATES else "pre_tile, images 0"
    verdict = check_stages(side, variant, WrongId()).verdict
    assert verdict.startswith(f"first at {first}")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("first_place", "a sacrificial image holds; without it places"),
        ("first_image", "a sacrificial image doesn't help (places"),
        ("stray_write_of_first_place", "a sacrificial image doesn't help (neighbors"),
    ],
)
def test_t6_names_the_fault(side: VisionSide, p0: Any, fault: str, words: str) -> None:
    result = check_containment(side, with_fault(side, p0, getattr(gpu_faults, fault)))
    for tiles in range(1, TILES + 1):
        assert f"{tiles} tiles: {words}" in result.verdict


def test_t7_names_zeros(side: VisionSide) -> None:
    graph = side.load("T7")
    assert check_selection(graph, side.device).verdict == "equal"

    class Zeroed:
        def execute(self, *inputs: Any) -> Any:
            by_boolean, by_factor = graph.execute(*inputs)
            values = by_boolean.to_numpy().copy()
            values[~inputs[2].to_numpy()[:, 0]] = 0
            return Buffer.from_numpy(values), by_factor

    verdict = check_selection(Zeroed(), side.device).verdict
    assert verdict.startswith("by_boolean: ")
    assert "they are zeros" in verdict
    assert "by_factor" not in verdict
