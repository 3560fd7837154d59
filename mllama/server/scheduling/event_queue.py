"""The events of a request that its reader hasn't taken yet."""

from __future__ import annotations

import asyncio

from mllama.requests.events import Event, Piece, PromptRead, count_log_probabilities
from mllama.server.kept_log_probabilities import LogProbabilityShare

Item = Event | Exception | None
"""An event, or what ends a request: an error, or None."""


class EventQueue:
    """A queue of events, whose log probabilities count among those of their request.

    A client that reads slowly, or not at all, has its answer pile up here.

    Args:
        share: The request's log probabilities; None counts nothing.
    """

    def __init__(self, share: LogProbabilityShare | None) -> None:
        self._share = share
        self._items: asyncio.Queue[tuple[Item, int]] = asyncio.Queue()
        self._kept = 0

    def put(self, item: Item) -> None:
        """Adds an event, or the end.

        Raises:
            EngineOverloadedError: If the server keeps too many log probabilities.
        """
        count = 0
        if isinstance(item, (Piece, PromptRead)) and item.logprobs:
            count = count_log_probabilities(item.logprobs)
            if self._share is not None:
                self._share.keep(count)
            self._kept += count
        self._items.put_nowait((item, count))

    async def get(self) -> Item:
        """Waits for the next one, and returns it."""
        item, count = await self._items.get()
        self._drop(count)
        return item

    def close(self) -> None:
        """Gives back what nobody will read."""
        self._drop(self._kept)

    def _drop(self, count: int) -> None:
        self._kept -= count
        if count and self._share is not None:
            self._share.drop(count)
