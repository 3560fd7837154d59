"""Which images each text row of a batch attends to.

Text attends to the image, or run of adjacent images, that most recently precedes
it; the rows of a run's own placeholders see the images up to their own.  The mask is
never built: a request's new rows are cut into *segments* at its images' places, and
each segment reads a range of rows of one pool entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Segment:
    """Consecutive text rows of one request that see the same images.

    Attributes:
        start: First row, as a position in the request's tokens.
        end: One past the last row.
        run: Indices of the request's images in the run that the rows belong to,
            ``range(0)`` if no image precedes them.
        images_seen: How many of the run's images, from its first, the rows see.
    """

    start: int
    end: int
    run: range
    images_seen: int

    @property
    def length(self) -> int:
        """Number of text rows."""
        return self.end - self.start


def image_runs(positions: Sequence[int]) -> list[range]:
    """Groups images whose placeholders are adjacent.

    Args:
        positions: Ascending places of the placeholders in the tokens.

    Returns:
        Ranges of image indices, together covering all images.
    """
    runs: list[range] = []
    for index, position in enumerate(positions):
        if index and position == positions[index - 1] + 1:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def segments(positions: Sequence[int], start: int, end: int) -> list[Segment]:
    """Cuts the rows ``start .. end`` of a request at its images' places.

    Args:
        positions: Ascending places of the placeholders in the request's tokens.
        start: First new row of this step.
        end: One past the last new row of this step.

    Returns:
        Segments in order, covering exactly these rows.
    """
    run_of = {index: run for run in image_runs(positions) for index in run}
    cuts = [start, *(p for p in positions if start < p < end), end]
    result: list[Segment] = []
    for first, last in pairwise(cuts):
        preceding = [i for i, position in enumerate(positions) if position <= first]
        if preceding:
            run = run_of[preceding[-1]]
            seen = preceding[-1] - run.start + 1
        else:
            run, seen = range(0), 0
        result.append(Segment(first, last, run, seen))
    return result
