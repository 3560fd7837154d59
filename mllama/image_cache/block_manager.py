"""Assigns the pages of the image cache to runs of images.

Host bookkeeping only: pages are numbers here.  Their memory belongs to
:class:`mllama.image_cache.storage.ImageCacheStorage`.

An entry is one *run*: images that are adjacent in a prompt.  Text after a run attends
to all of its images at once, and MAX's paged attention reads one contiguous range of
tokens.  Entries are keyed by the content of their images, shared by all requests that
show them, pinned while a request needs them, and evicted least recently used first.  An
image that another entry contains is found by its hash, so that it is copied instead of
encoded again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

RunKey = tuple[int, ...]
"""Content hashes of the images of a run, in order."""

RunTokens = tuple[int, ...]
"""Number of image tokens of each image of a run, in order."""

ZERO_PAGE = 0
"""A page of zeros, for text tokens that see no image: the attention kernel takes no
empty range of keys."""


class ImageCacheFullError(Exception):
    """Too many pages are pinned.

    Args:
        missing_pages: The number of pages that the runs lack.
    """

    def __init__(self, missing_pages: int) -> None:
        super().__init__(f"the image cache lacks {missing_pages} pages")
        self.missing_pages = missing_pages


@dataclass(eq=False)
class Entry:
    """The pages of one run of images.

    Attributes:
        key: The run.
        pages: Its pages, in the order of its tokens.
        token_ends: Running sum of image tokens: image ``i`` ends at ``token_ends[i]``.
        filled: For each image, whether its keys and values are stored.
        pinned_by: The requests that need the entry.
    """

    key: RunKey
    pages: tuple[int, ...]
    token_ends: tuple[int, ...]
    filled: list[bool]
    pinned_by: set[Hashable] = field(default_factory=set)

    def num_tokens(self, images: int) -> int:
        """Returns the number of image tokens of the run's first ``images`` images."""
        return self.token_ends[images - 1]

    def span(self, index: int) -> tuple[int, int]:
        """Returns the first token of an image, and one past its last."""
        return (self.token_ends[index - 1] if index else 0), self.token_ends[index]


class ImageBlockManager:
    """Allocates pages to runs of images, and evicts those that nobody needs.

    Args:
        num_pages: All pages, the zero page included.
        page_size: Tokens of one page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.encoded = 0
        """Images that were encoded so far."""
        self.copied = 0
        """Images that were copied from another entry so far."""
        self.evictions = 0
        """Entries that were evicted so far."""
        self._free = list(range(num_pages - 1, ZERO_PAGE, -1))
        self._entries: OrderedDict[RunKey, Entry] = OrderedDict()
        self._pins: dict[Hashable, set[RunKey]] = {}
        self._pinned_entries = 0  # Counted here, since other threads read it.
        # The entries that contain each image, and its index there.
        self._holders: dict[int, dict[RunKey, int]] = {}

    def pages_for(self, tokens: Iterable[int]) -> int:
        """Returns the number of pages that a run of images takes.

        Args:
            tokens: The image tokens of each image.
        """
        return -(-sum(tokens) // self.page_size)

    @property
    def free_pages(self) -> int:
        """Returns the number of free pages."""
        return len(self._free)

    @property
    def pinned_entries(self) -> int:
        """Returns the number of entries that some request needs."""
        return self._pinned_entries

    def has_pinned(self, request: Hashable) -> bool:
        """Returns True if a request has reserved its runs."""
        return request in self._pins

    def __len__(self) -> int:
        return len(self._entries)

    def reserve(self, request: Hashable, wanted: Mapping[RunKey, RunTokens]) -> None:
        """Finds or allocates the entries of runs, and pins them all for a request.

        Raises:
            ImageCacheFullError: If the pages that are free or can be evicted don't
                suffice; nothing was changed then.
        """
        new = {key: run for key, run in wanted.items() if key not in self._entries}
        if new:
            self._make_room(sum(map(self.pages_for, new.values())), wanted)
        self._pins.setdefault(request, set()).update(wanted)
        for key, tokens in wanted.items():
            entry = self._entries.get(key) or self._allocate(key, tokens)
            self._pinned_entries += not entry.pinned_by
            entry.pinned_by.add(request)
            self._entries.move_to_end(key)

    def pinned(self, request: Hashable, key: RunKey) -> Entry:
        """Returns the entry of a run that the request has reserved."""
        assert key in self._pins.get(request, ()), "the run was not reserved"
        self._entries.move_to_end(key)
        return self._entries[key]

    def unpin(self, request: Hashable) -> None:
        """Drops a request's pins, if it has any."""
        for key in self._pins.pop(request, set()):
            entry = self._entries[key]
            entry.pinned_by.discard(request)
            self._pinned_entries -= not entry.pinned_by

    def fill(self, entry: Entry, index: int, *, is_copy: bool = False) -> None:
        """Records that an image's keys and values were stored in an entry.

        Args:
            entry: The entry.
            index: The image's index in the entry's run.
            is_copy: Whether they were copied from another entry, not encoded.
        """
        entry.filled[index] = True
        self._holders.setdefault(entry.key[index], {})[entry.key] = index
        if is_copy:
            self.copied += 1
        else:
            self.encoded += 1

    def find(self, image: int) -> tuple[Entry, int] | None:
        """Returns an entry that contains an image, and the image's index there."""
        for key, index in self._holders.get(image, {}).items():
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
        # An entry with a wanted image goes last: the image can be copied from there.
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
            holders = self._holders.get(image, {})
            holders.pop(entry.key, None)
            if not holders:
                self._holders.pop(image, None)

    def _allocate(self, key: RunKey, tokens: RunTokens) -> Entry:
        ends: list[int] = []
        for count in tokens:
            ends.append(count + (ends[-1] if ends else 0))
        pages = tuple(self._free.pop() for _ in range(self.pages_for(tokens)))
        entry = Entry(key, pages, tuple(ends), [False] * len(key))
        self._entries[key] = entry
        return entry
