"""Which pages of the image pool hold the keys and values of which images.

Host bookkeeping only: pages are numbers here, the memory behind them belongs to
:class:`mllama.serving.image_store.ImageStore`.

An entry is one *run*: images that stand next to each other in a prompt, since text
after them attends to all of them at once and MAX's paged attention reads one
contiguous range of rows.  Entries are keyed by the content of their images, shared
by all requests that show them, pinned while a request in the batch reads them, and
evicted least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

RunKey = tuple[int, ...]
"""Content hashes of the images of a run, in order."""

ZERO_PAGE = 0
"""A page of zeros, for text rows that see no image: the kernel rejects an empty
range of keys."""


class PoolFullError(Exception):
    """All pages that could be freed are pinned.

    Args:
        missing_pages: How many more pages the run needs.
    """

    def __init__(self, missing_pages: int) -> None:
        super().__init__(f"the image pool lacks {missing_pages} pages")
        self.missing_pages = missing_pages


@dataclass
class Entry:
    """The pages of one run of images."""

    key: RunKey
    pages: tuple[int, ...]
    row_ends: tuple[int, ...]
    """Running sum of rows: image i ends at row ``row_ends[i]``."""
    filled: bool = False
    """Whether the keys and values of the images have been stored."""
    pinned_by: set[Hashable] = field(default_factory=set)

    def rows(self, images: int) -> int:
        """Rows of the run's first ``images`` images."""
        return self.row_ends[images - 1]


class ImagePool:
    """Allocates pages to runs of images.

    Args:
        num_pages: All pages, the zero page included.
        page_size: Rows of one page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, ZERO_PAGE, -1))
        self._entries: OrderedDict[RunKey, Entry] = OrderedDict()
        self._pins: dict[Hashable, set[RunKey]] = {}

    def pages_for(self, row_counts: Iterable[int]) -> int:
        """Pages that a run of images of these row counts takes."""
        return -(-sum(row_counts) // self.page_size)

    @property
    def free_pages(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def pinned_entries(self) -> int:
        """Entries that some request reads."""
        return sum(1 for entry in self._entries.values() if entry.pinned_by)

    def __len__(self) -> int:
        return len(self._entries)

    def pin(self, request: Hashable, key: RunKey, row_counts: tuple[int, ...]) -> Entry:
        """Finds or allocates the entry of a run and pins it for a request.

        Args:
            request: Who reads it.
            key: The images' hashes.
            row_counts: The images' rows.

        Returns:
            The entry; its caller must fill its pages unless it is ``filled``.

        Raises:
            PoolFullError: If the pages that are free or can be evicted don't
                suffice; nothing was changed then.
        """
        entry = self._entries.get(key) or self._allocate(key, row_counts)
        self._entries.move_to_end(key)
        entry.pinned_by.add(request)
        self._pins.setdefault(request, set()).add(key)
        return entry

    def unpin(self, request: Hashable, keep: Iterable[RunKey] = ()) -> None:
        """Drops a request's pins but those of ``keep``.

        Calling it again, or for a request without pins, does nothing.
        """
        kept = set(keep)
        for key in self._pins.pop(request, set()):
            if key in kept:
                self._pins.setdefault(request, set()).add(key)
            elif key in self._entries:
                self._entries[key].pinned_by.discard(request)

    def grow(self, num_pages: int) -> None:
        """Adds pages up to ``num_pages`` in all."""
        self._free = [*range(num_pages - 1, self.num_pages - 1, -1), *self._free]
        self.num_pages = num_pages

    def _allocate(self, key: RunKey, row_counts: tuple[int, ...]) -> Entry:
        needed = self.pages_for(row_counts)
        evictable = [e for e in self._entries.values() if not e.pinned_by]
        missing = needed - len(self._free) - sum(len(e.pages) for e in evictable)
        if missing > 0:
            raise PoolFullError(missing)
        for victim in evictable:
            if len(self._free) >= needed:
                break
            self._free.extend(self._entries.pop(victim.key).pages)
        ends: list[int] = []
        for count in row_counts:
            ends.append(count + (ends[-1] if ends else 0))
        pages = tuple(self._free.pop() for _ in range(needed))
        entry = self._entries[key] = Entry(key, pages, tuple(ends))
        return entry
