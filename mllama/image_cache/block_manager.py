"""Which pages of the image pool hold the keys and values of which images.

Host bookkeeping only: pages are numbers here, the memory behind them belongs to
:class:`mllama.image_cache.storage.ImageCacheStorage`.

An entry is one *run*: images that stand next to each other in a prompt, since text
after them attends to all of them at once and MAX's paged attention reads one
contiguous range of rows.  Entries are keyed by the content of their images, shared
by all requests that show them, pinned while a request needs them, and evicted least
recently used first.  An image that another run holds already is found by its hash,
so that it can be copied instead of encoded again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

RunKey = tuple[int, ...]
"""Content hashes of the images of a run, in order."""

RunRows = tuple[int, ...]
"""Rows of each image of a run, in order."""

ZERO_PAGE = 0
"""A page of zeros, for text rows that see no image: the kernel rejects an empty
range of keys."""


class ImageCacheFullError(Exception):
    """All pages that could be freed are pinned.

    Args:
        missing_pages: How many more pages the runs need.
    """

    def __init__(self, missing_pages: int) -> None:
        super().__init__(f"the image pool lacks {missing_pages} pages")
        self.missing_pages = missing_pages


@dataclass(eq=False)
class Entry:
    """The pages of one run of images."""

    key: RunKey
    pages: tuple[int, ...]
    row_ends: tuple[int, ...]
    """Running sum of rows: image i ends at row ``row_ends[i]``."""
    filled: list[bool]
    """Of which images the keys and values have been stored."""
    pinned_by: set[Hashable] = field(default_factory=set)

    def rows(self, images: int) -> int:
        """Rows of the run's first ``images`` images."""
        return self.row_ends[images - 1]

    def span(self, index: int) -> tuple[int, int]:
        """First row of an image, and one past its last."""
        return (self.row_ends[index - 1] if index else 0), self.row_ends[index]


class ImageBlockManager:
    """Allocates pages to runs of images.

    Args:
        num_pages: All pages, the zero page included.
        page_size: Rows of one page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.evictions = 0
        """Entries whose pages were given to others so far."""
        self._free = list(range(num_pages - 1, ZERO_PAGE, -1))
        self._entries: OrderedDict[RunKey, Entry] = OrderedDict()
        self._pins: dict[Hashable, set[RunKey]] = {}
        self._pinned_entries = 0  # kept, since other threads ask for it
        # Where each image's keys and values are stored.
        self._places: dict[int, dict[RunKey, int]] = {}

    def pages_for(self, rows: Iterable[int]) -> int:
        """Pages that a run of images of these rows takes."""
        return -(-sum(rows) // self.page_size)

    @property
    def free_pages(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def pinned_entries(self) -> int:
        """Entries that some request needs."""
        return self._pinned_entries

    def has_pinned(self, request: Hashable) -> bool:
        """Whether a request has reserved its runs."""
        return request in self._pins

    def __len__(self) -> int:
        return len(self._entries)

    def reserve(self, request: Hashable, wanted: Mapping[RunKey, RunRows]) -> None:
        """Finds or allocates the entries of runs and pins them all for a request.

        Raises:
            ImageCacheFullError: If the pages that are free or can be evicted don't
                suffice; nothing was changed then.
        """
        new = {key: rows for key, rows in wanted.items() if key not in self._entries}
        if new:
            self._make_room(sum(map(self.pages_for, new.values())), wanted)
        self._pins.setdefault(request, set()).update(wanted)
        for key, rows in wanted.items():
            entry = self._entries.get(key) or self._allocate(key, rows)
            self._pinned_entries += not entry.pinned_by
            entry.pinned_by.add(request)
            self._entries.move_to_end(key)

    def pinned(self, request: Hashable, key: RunKey) -> Entry:
        """The entry of a run that the request has reserved."""
        assert key in self._pins.get(request, ()), "the run was not reserved"
        self._entries.move_to_end(key)
        return self._entries[key]

    def unpin(self, request: Hashable) -> None:
        """Drops a request's pins.

        Calling it again, or for a request without pins, does nothing.
        """
        for key in self._pins.pop(request, set()):
            entry = self._entries[key]
            entry.pinned_by.discard(request)
            self._pinned_entries -= not entry.pinned_by

    def fill(self, entry: Entry, index: int) -> None:
        """Notes that an image's keys and values have been stored in an entry."""
        entry.filled[index] = True
        self._places.setdefault(entry.key[index], {})[entry.key] = index

    def find(self, image: int) -> tuple[Entry, int] | None:
        """An entry that holds an image, and the image's index there."""
        for key, index in self._places.get(image, {}).items():
            return self._entries[key], index
        return None

    def _make_room(self, needed: int, wanted: Iterable[RunKey]) -> None:
        """Evicts entries that nobody needs until ``needed`` pages are free."""
        keep = set(wanted)
        evictable = [
            entry
            for entry in self._entries.values()
            if not entry.pinned_by and entry.key not in keep
        ]
        missing = needed - len(self._free) - sum(len(e.pages) for e in evictable)
        if missing > 0:
            raise ImageCacheFullError(missing)
        # What holds a wanted image goes last: it can be copied from there.
        images = {image for key in keep for image in key}
        evictable.sort(key=lambda entry: not images.isdisjoint(entry.key))
        for victim in evictable:
            if len(self._free) >= needed:
                break
            self._evict(victim)

    def _evict(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._free.extend(entry.pages)
        self.evictions += 1
        for image in set(entry.key):
            places = self._places.get(image, {})
            places.pop(entry.key, None)
            if not places:
                self._places.pop(image, None)

    def _allocate(self, key: RunKey, rows: RunRows) -> Entry:
        ends: list[int] = []
        for count in rows:
            ends.append(count + (ends[-1] if ends else 0))
        pages = tuple(self._free.pop() for _ in range(self.pages_for(rows)))
        entry = Entry(key, pages, tuple(ends), [False] * len(key))
        self._entries[key] = entry
        return entry
