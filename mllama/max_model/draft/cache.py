"""The pages of the draft model's KV cache, and which request has which.

The draft model only guesses: a request whose pages are taken by another computes its
tokens again when its turn comes, and one that doesn't fit is not guessed for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]


@dataclass
class CachedSequence:
    """A request's tokens whose keys and values are in the cache.

    Attributes:
        tokens: The tokens, from the first one.
        pages: The pages of their keys and values, and of some more tokens.
    """

    tokens: Tokens = field(default_factory=lambda: np.empty(0, np.int64))
    pages: list[int] = field(default_factory=list)

    def follow(self, tokens: Tokens) -> Tokens:
        """Drops the cached tokens from the first that differs from the given ones on.

        Guesses that turned out wrong are dropped so.  The last token always counts as
        new, because what follows it is asked for.

        Args:
            tokens: The request's tokens, at least one.

        Returns:
            Those that are not in the cache.
        """
        most = min(len(self.tokens), len(tokens) - 1)
        differs = np.flatnonzero(self.tokens[:most] != tokens[:most])
        kept = int(differs[0]) if len(differs) else most
        self.tokens = self.tokens[:kept]
        return tokens[kept:]

    def append(self, tokens: Tokens) -> None:
        """Records tokens whose keys and values were computed."""
        self.tokens = np.concatenate([self.tokens, tokens])


class DraftCacheManager:
    """Divides the pages of the cache among requests.

    A request that needs a page takes it from the requests that have not been guessed
    for the longest time.

    Args:
        num_pages: Number of pages.
        page_size: Tokens of a page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self._page_size = page_size
        self._num_pages = num_pages
        self._free = list(reversed(range(num_pages)))
        self._sequences: OrderedDict[Any, CachedSequence] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Returns the number of pages that no request has."""
        return len(self._free)

    def __contains__(self, request_id: Any) -> bool:
        return request_id in self._sequences

    def rooms(self, lengths: Sequence[int], more: int) -> list[int]:
        """Returns for how many tokens of each request of a batch there are pages.

        Args:
            lengths: The requests' tokens, those that get pages first at the front.
            more: Further tokens that each request gets pages for, if there are any.

        Returns:
            At least the request's tokens; 0 if there are too few pages for them.
        """
        rooms = []
        free = self._num_pages
        for length in lengths:
            pages = min(-(-(length + more) // self._page_size), free)
            if pages * self._page_size < length:
                pages = 0
            free -= pages
            rooms.append(pages * self._page_size)
        return rooms

    def length(self, request_id: Any) -> int:
        """Returns the number of a request's tokens that were computed."""
        sequence = self._sequences.get(request_id)
        return 0 if sequence is None else len(sequence.tokens)

    def sequence(self, request_id: Any) -> CachedSequence:
        """Returns what is cached of a request, which is now the last one used."""
        found = self._sequences.setdefault(request_id, CachedSequence())
        self._sequences.move_to_end(request_id)
        return found

    def reserve(self, request_id: Any, length: int, keep: Collection[Any]) -> bool:
        """Gives a request pages for so many tokens.

        Args:
            request_id: The request.
            length: Its tokens, those in the cache included.
            keep: Requests whose pages are not taken.

        Returns:
            False if there are too few pages; the request then has none more.
        """
        sequence = self._sequences[request_id]
        missing = -(-length // self._page_size) - len(sequence.pages)
        others = [
            other
            for other in self._sequences
            if other != request_id and other not in keep
        ]
        available = len(self._free) + sum(
            len(self._sequences[other].pages) for other in others
        )
        if missing > available:
            return False
        while len(self._free) < missing:
            self.release(others.pop(0))
        for _ in range(missing):
            sequence.pages.append(self._free.pop())
        return True

    def release(self, request_id: Any) -> None:
        """Forgets a request and frees its pages; it may be unknown."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._free += reversed(sequence.pages)
