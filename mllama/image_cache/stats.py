"""Statistics of the image cache."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

ENCODE_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160),
)
"""Upper bounds of the times that :class:`EncodeTimes` tells apart, in seconds."""


@dataclass(frozen=True)
class ImageCacheStats:
    """A snapshot of the image cache.

    Attributes:
        bytes: Memory reserved for the cache.
        used_bytes: Memory that images occupy.
        entries: Runs of adjacent images in the cache.
        pinned: Entries that running requests need.
        hits: Images of requests so far that were in the cache.
        misses: Images that were encoded so far.
        evictions: Entries that were evicted so far.
    """

    bytes: int = 0
    used_bytes: int = 0
    entries: int = 0
    pinned: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0


class EncodeTimes:
    """How long the runs of the vision graph took.

    Attributes:
        counts: The number of runs up to each of :data:`ENCODE_SECONDS` and above the
            bound before it; the last one is of longer runs.
        nanoseconds: All runs together.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(ENCODE_SECONDS) + 1)
        self.nanoseconds = 0

    def add(self, seconds: float) -> None:
        """Counts a run."""
        self.counts[bisect_left(ENCODE_SECONDS, seconds)] += 1
        self.nanoseconds += round(seconds * 1e9)
