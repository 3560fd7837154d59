"""T1 and T1b: whether what is stored of a picture depends on its place in a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu_fault.comparison import Comparison, compare, to_array
from benchmarks.gpu_fault.report import Result
from benchmarks.gpu_fault.vision_side import (
    INPUTS,
    ObservedGraph,
    RecordedUploads,
    VisionSide,
    token_rows,
)
from mllama.image_cache.block_manager import Entry
from mllama.image_cache.page_contents import download_pages
from mllama.runtime.image_probe import SENTINEL, ImageProbe


def check_places(side: VisionSide, graph: Any) -> list[Result]:
    """Runs T1 and T1b with pictures of one tile and of the most tiles.

    Args:
        side: The vision side.
        graph: P0, loaded.
    """
    figures: dict[str, Any] = {}
    uploaded: dict[str, Any] = {}
    wrong: list[str] = []
    changed: list[str] = []
    for tiles in dict.fromkeys((1, side.vision.max_num_tiles)):
        uploads = RecordedUploads(side.device)
        observed = ObservedGraph(graph, side.device)
        probe = side.probe(observed, uploads)
        title = f"{tiles} tile{'s' * (tiles > 1)}"
        comparisons, found = compare_places(side, probe, tiles)
        figures[title] = {
            **{name: each.to_dict() for name, each in comparisons.items()},
            "rows of image 1 elsewhere": found,
        }
        lines = describe(comparisons)
        if found or lines:
            lines.append(
                f"rows of image 1 are in {found} (H4)"
                if found
                else "image 1's rows are nowhere else, so the values are wrong"
            )
        wrong += [f"{title}: {line}" for line in lines]
        uploaded[title] = compare_inputs(observed, uploads)
        changed += [
            f"{title}: {name} changed (H1, the upload)"
            for name, is_same in uploaded[title].items()
            if not is_same
        ]
    return [Result.of("T1", figures, wrong), Result.of("T1b", uploaded, changed)]


def compare_places(
    side: VisionSide, probe: ImageProbe, num_tiles: int
) -> tuple[dict[str, Comparison], dict[str, int]]:
    """Runs ``[B, B, B]``, ``[A, A, A]`` and ``[A, B, A]``.

    Returns:
        Comparisons of stored images by description, and the number of image 1's rows
        that are in places where they don't belong.
    """

    def rows(letters: str) -> list[npt.NDArray[np.float32]]:
        run = probe.run(side.pictures(letters, num_tiles), is_sacrificial=False)
        return [token_rows(image.values) for image in run.images]

    before = rows("BBB")
    first, second, third = rows("AAA")
    found = misplaced_rows(probe, probe.entries(num_tiles, 3), second)
    others = {
        "never written": np.full_like(first, SENTINEL),
        "zeros": np.zeros_like(first),
        "the previous run's (stale reads)": before[0],
        "another picture's": before[1],
    }
    comparisons = {
        "AAA, images 0 and 1": compare(first, second, others),
        "AAA, images 2 and 1": compare(third, second, others),
    }
    alone, between, last = rows("ABA")
    others |= {"the previous run's (stale reads)": first}
    comparisons |= {
        "ABA, image 0 and AAA's 1": compare(alone, second, others),
        "ABA, image 2 and AAA's 1": compare(last, second, others),
        "ABA, image 1 and BBB's 1": compare(between, before[1], {}),
    }
    return comparisons, found


def describe(comparisons: dict[str, Comparison]) -> list[str]:
    """Returns a line about each comparison that failed."""
    return [
        f"{name}: {each}" for name, each in comparisons.items() if not each.is_equal
    ]


def misplaced_rows(
    probe: ImageProbe, entries: list[Entry], rows: npt.NDArray[np.float32]
) -> dict[str, int]:
    """Searches all pages for the keys and values of an image.

    Args:
        probe: The probe, after a run of three equal images.
        entries: Their places.
        rows: ``[tokens, keys and values of all layers]``, those of image 1.

    Returns:
        How many rows of a layer's keys or values were found in pages of no image, or at
        another token of image 0, by description; nothing where there are none.
    """
    size = probe.storage.params.page_size
    shape = probe.storage.params.shape_per_block
    parts = rows.reshape(len(rows), shape[0] * shape[1], -1)
    known = [{row.tobytes() for row in parts[:, part]} for part in range(len(parts[0]))]
    owners = {page: number for number, e in enumerate(entries) for page in e.pages}
    found: dict[str, int] = {}

    def count(where: str) -> None:
        found[where] = found.get(where, 0) + 1

    for page in range(probe.storage.scratch.stop):
        number = owners.get(page)
        if number in (1, 2):
            continue
        (content,) = download_pages(probe.storage, [page])
        slots = content.reshape(len(known), size, -1)
        for part, of_image in enumerate(known):
            for slot, row in enumerate(slots[part]):
                if row.tobytes() not in of_image:
                    continue
                if number is None:
                    count(f"page {page}")
                    continue
                token = entries[0].pages.index(page) * size + slot
                if token >= len(rows) or not np.array_equal(row, parts[token, part]):
                    count("other tokens of image 0")
    return found


def compare_inputs(
    observed: ObservedGraph, uploads: RecordedUploads
) -> dict[str, bool]:
    """Returns whether each input is still what was uploaded, downloaded after a run."""
    return {
        name: bool(
            np.array_equal(
                to_array(observed.inputs[index]),
                uploads.original(observed.inputs[index]),
            )
        )
        for name, index in INPUTS.items()
    }
