"""Which replicas there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from mllama.errors import EngineUnavailableError
from mllama.utils.event_loops import background_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logger = logging.getLogger("mllama")

_PERIOD_SECONDS: Final = 0.5
"""Pause between two questions to Ray Serve's controller."""

_RETRY_SECONDS: Final = 5
"""When another try may find a replica: one starts within seconds."""


class ReplicaStates:
    """The replicas of a deployment, as Ray Serve's controller sees them.

    It is the server's readiness.

    Args:
        ask: Returns the number of replicas that run; it may take a while.

    Attributes:
        number: Replicas that run.
    """

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._waiting: set[Callable[[Exception], None]] = set()
        self.number = 0

    @property
    def is_ready(self) -> bool:
        """Returns True if a replica runs."""
        return self.number > 0

    def unavailable(self) -> EngineUnavailableError:
        """Returns the error of requests for which there is no replica."""
        return EngineUnavailableError(
            "no replica of the model runs at the moment; Ray Serve is starting one, so "
            f"try again in {_RETRY_SECONDS} s",
            _RETRY_SECONDS,
        )

    def check(self) -> None:
        """Checks that there is a replica.

        Raises:
            EngineUnavailableError: If there is none.
        """
        if not self.is_ready:
            raise self.unavailable()

    @contextmanager
    def waiting(self, fail: Callable[[Exception], None]) -> Iterator[None]:
        """Has a request told, within a ``with`` block, when there is no replica.

        Args:
            fail: Gets the error.
        """
        self._waiting.add(fail)
        try:
            yield
        finally:
            self._waiting.discard(fail)

    def update(self, number: int) -> None:
        """Notes how many replicas run now."""
        if number != self.number:
            logger.info("replicas that take requests: %d", number)
        self.number = number
        if not number:
            for fail in tuple(self._waiting):
                fail(self.unavailable())

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Keeps the states current within an ``async with`` block."""
        self.update(await asyncio.to_thread(self._ask))
        async with background_task(self._watch()):
            yield

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            try:
                self.update(await asyncio.to_thread(self._ask))
            except Exception as error:
                # Ray restarts its controller if it dies, and replicas go on.
                logger.warning(
                    "Ray Serve's controller can't be asked: %s",
                    " ".join(str(error).split())[:200],
                )
