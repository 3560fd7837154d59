"""What the image cache holds and has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageCacheStats:
    """A snapshot of the image cache.

    Attributes:
        bytes: Memory that it takes, all of it reserved at the start.
        used_bytes: Of that, what holds images.
        entries: Runs of adjacent images that it holds.
        pinned: Of these, what running requests need.
        hits: Images shown by requests so far whose keys and values were there.
        misses: Images that were encoded.
        evictions: Entries that made room for others.
    """

    bytes: int = 0
    used_bytes: int = 0
    entries: int = 0
    pinned: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0
