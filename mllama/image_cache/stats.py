"""Statistics of the image cache."""

from __future__ import annotations

from dataclasses import dataclass


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
