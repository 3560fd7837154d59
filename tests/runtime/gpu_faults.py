"""Faults of a GPU, injected around a compiled graph on the CPU.

Each stands in for the compiled vision graph and damages what a run stores, as an H200
did.  A *place* is an image's index in a run, a sacrificial one included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer

from mllama.max_model import model
from mllama.max_model.memory_planner import pages_per_image
from mllama.runtime.gpu_self_check import GpuSelfCheck
from mllama.runtime.image_probe import SENTINEL

_IDS = 2
_PAGES = 5
_TABLE = 7
"""Indices of the vision graph's inputs: aspect ratio ids, cache, page table."""


@dataclass
class Run:
    """A run of the vision graph, after it.

    Attributes:
        pages: The image cache, ``[pages, 2, layers, page size, kv heads, head dim]``.
        table: The pages of each image.
        num_scratch: Images of the run whose result is dropped.
    """

    pages: np.ndarray
    table: np.ndarray
    num_scratch: int

    def image(self, place: int) -> np.ndarray:
        """Returns the first page of an image, in place."""
        return self.pages[self.table[place, 0]]

    def garbage(self, place: int) -> None:
        """Replaces an image's keys and values by others of their magnitude."""
        image = self.image(place)
        used = image != SENTINEL
        noise = np.random.default_rng().normal(0, image[used].std(), image.shape)
        image[used] = noise[used]


Fault = Callable[[Run], None]


class FaultyGraph:
    """A compiled vision graph with a fault.

    Args:
        graph: The compiled graph.
        fault: Damages what each run stored.
        num_pages: Pages of the image cache before the scratch pages.
        change_ids: Damages the run's aspect ratio ids before it.
    """

    def __init__(
        self,
        graph: Any,
        fault: Fault,
        num_pages: int,
        change_ids: Callable[[np.ndarray], None] | None = None,
    ) -> None:
        self.graph = graph
        self.fault = fault
        self.num_pages = num_pages
        self.change_ids = change_ids
        self.images: list[tuple[int, int]] = []
        """Images and tiles of each run so far."""

    def execute(self, *inputs: Any) -> Any:
        """Runs the graph, and then the fault."""
        arguments = list(inputs)
        self.images.append(tuple(inputs[0].shape[:2]))
        if self.change_ids is not None:
            ids = inputs[_IDS].to_numpy().copy()
            self.change_ids(ids)
            arguments[_IDS] = Buffer.from_numpy(ids)
        outputs = self.graph.execute(*arguments)
        table = inputs[_TABLE].to_numpy()
        num_scratch = int((table[:, 0] >= self.num_pages).sum())
        self.fault(Run(inputs[_PAGES].to_numpy(), table, num_scratch))
        return outputs


def give_scratch_pages(patch: pytest.MonkeyPatch) -> None:
    """Gives models that are loaded from now on scratch pages, as on a GPU."""
    patch.setattr(model, "scratch_pages", lambda config: pages_per_image(config) + 1)


def inject(
    patch: pytest.MonkeyPatch, check: GpuSelfCheck, fault: Fault, **options: Any
) -> FaultyGraph:
    """Puts a fault around a model's vision graph until the patch is undone."""
    runner = check.images.runner
    pages = check.images.storage.blocks.num_pages
    faulty = FaultyGraph(runner._encoder, fault, pages, **options)
    patch.setattr(runner, "_encoder", faulty)
    return faulty


def none(run: Run) -> None:
    """Damages nothing."""


def first_place(run: Run) -> None:
    """Garbage at the first place, whatever image is there."""
    run.garbage(0)


def first_place_alone(run: Run) -> None:
    """Garbage at the first place unless a sacrificial image is there."""
    if not run.num_scratch:
        run.garbage(0)


def not_a_number_first(run: Run) -> None:
    """A value of the image at the first place that is not a number."""
    run.image(0)[1, 0, 2, 0, 0] = np.nan


def first_tokens(run: Run) -> None:
    """The first five tokens at the first place, ten times too large."""
    run.image(0)[:, :, :5] *= 10


def misplaced(run: Run) -> None:
    """What belongs to the image at the first place is stored behind the last image."""
    image = run.image(0)
    run.pages[run.table[-1, 0] + 1] = image
    image[:] = SENTINEL


def one_token(run: Run) -> None:
    """A value of one token at the first place, a little off."""
    values = run.image(0)[1, -1]
    values[3] += values[:17].std() / 2


def first_image(run: Run) -> None:
    """Garbage for the first image that is kept, behind a sacrificial one too."""
    run.garbage(run.num_scratch)


def every_image(run: Run) -> None:
    """Garbage for every image, another one each time."""
    for place in range(len(run.table)):
        run.garbage(place)


def same_for_all(run: Run) -> None:
    """The last image's keys and values for every image."""
    for place in range(len(run.table)):
        run.image(place)[:] = run.image(len(run.table) - 1)


def stray_write(run: Run) -> None:
    """One token's key behind the last image's pages."""
    run.pages[run.table[-1, 0] + 1, 0, 0, 5] = 1


def stray_write_in_page(run: Run) -> None:
    """One token's value behind the last image's tokens, in its page."""
    run.image(len(run.table) - 1)[1, -1, -1] = 1


def stray_write_of_first_place(run: Run) -> None:
    """One token's key behind the pages of the image at the first place."""
    run.pages[run.table[0, 0] + 1, 0, 0, 5] = 1


def write_to_zero_page(run: Run) -> None:
    """One value in the page of zeros."""
    run.pages[0, 1, 0, 3, 0, 0] = 1e-6


def not_a_number(run: Run) -> None:
    """A value of the last image that is not a number."""
    run.image(len(run.table) - 1)[1, 0, 2, 0, 0] = np.nan


def nothing_stored(run: Run) -> None:
    """A token of the last image that is not stored."""
    run.image(len(run.table) - 1)[0, 0, 2] = SENTINEL


def by_length(run: Run) -> None:
    """Values that depend on the number of images in the run."""
    for place in range(len(run.table)):
        image = run.image(place)
        used = image != SENTINEL
        image[used] *= 1 + len(run.table) / 10


def rounding(run: Run) -> None:
    """Rounding errors, other ones at each place."""
    for place in range(len(run.table)):
        image = run.image(place)
        used = image != SENTINEL
        noise = np.random.default_rng(place).normal(0, 0.003, image.shape)
        image[used] *= 1 + noise[used]


def out_of_memory(run: Run) -> None:
    """A run that fails."""
    raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY\nat kernel 7")
