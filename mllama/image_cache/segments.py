"""Segments: text tokens of a batch that attend to the same images.

Text attends to the image, or run of adjacent images, that most recently precedes it;
the placeholders of a run see the images up to their own.  The mask is never built: a
request's new tokens are cut into *segments* at the positions of its images, and each
segment reads a range of image tokens of one entry of the image cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Segment:
    """Consecutive text tokens of one request that see the same images.

    Attributes:
        start: Position of the first token in the request.
        end: One past the position of the last token.
        run: Indices of the request's images in the run that the tokens see,
            ``range(0)`` if no image precedes them.
        images_seen: How many of the run's images, from its first, the tokens see.
    """

    start: int
    end: int
    run: range
    images_seen: int

    @property
    def length(self) -> int:
        """Returns the number of text tokens."""
        return self.end - self.start


def image_runs(positions: Sequence[int]) -> list[range]:
    """Groups images whose placeholders are adjacent.

    Args:
        positions: Ascending positions of the placeholders in the request.

    Returns:
        Ranges of image indices, which together cover all images.
    """
    runs: list[range] = []
    for index, position in enumerate(positions):
        if index and position == positions[index - 1] + 1:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def segments(positions: Sequence[int], start: int, end: int) -> list[Segment]:
    """Cuts the tokens ``start .. end`` of a request at the positions of its images.

    Args:
        positions: Ascending positions of the placeholders in the request.
        start: Position of this step's first token.
        end: One past the position of this step's last token.

    Returns:
        Segments in order, which cover exactly these tokens.
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
