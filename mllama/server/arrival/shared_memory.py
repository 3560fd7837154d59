"""The memory that requests in progress use together, which is bounded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Hashable
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama.errors import EngineOverloadedError
from mllama.launch.defaults import DEFAULT_QUEUE_SIZE
from mllama.max_compat.server import ClientDisconnected
from mllama.server.kept_log_probabilities import (
    MAX_KEPT,
    KeptLogProbabilities,
    LogProbabilityShare,
    count_for,
)
from mllama.server.scheduling.fair_semaphore import ANYBODY, FairSemaphore, Lease
from mllama.utils.fair_threads import waiting_as

MAX_BODIES_BYTES: Final = 1 << 30
"""The memory of the large bodies of all requests in progress."""

MAX_TEXTS_BYTES: Final = 256 << 20
"""The same for bodies of at most ``LARGEST_TEXT``, which don't wait for large ones."""

MAX_IMAGES_BYTES: Final = 1 << 30
"""The memory of the images of all requests in progress, files or prepared."""

SMALL_BODY: Final = 64 << 10
"""Bodies of so many bytes never wait: there is one for each connection at most."""

LARGEST_TEXT: Final = 1 << 20
"""The largest body that waits for others of its kind only."""

MAX_WAIT_SECONDS: Final = 300.0
"""The longest that a request waits for memory: half of what clients wait for an
answer by default, so that they hear why."""

_RETRY_SECONDS: Final = 10

_STATE: Final = "request_memory"


class SharedMemory:
    """The memory of requests in progress.

    What there isn't enough of is waited for, by the client that holds least first.

    Args:
        bodies: Bytes of large bodies.
        texts: Bytes of other bodies.
        images: Bytes of images.
        max_waiting: How many bodies may wait, of large ones and of others.
        max_wait: Seconds that a request waits; None waits for ever.
        most_each: The part of each kind that one client may have.
        log_probabilities: How many are kept at a time; None is any number.
    """

    def __init__(
        self,
        *,
        bodies: int = MAX_BODIES_BYTES,
        texts: int = MAX_TEXTS_BYTES,
        images: int = MAX_IMAGES_BYTES,
        max_waiting: int = DEFAULT_QUEUE_SIZE,
        max_wait: float | None = MAX_WAIT_SECONDS,
        most_each: float = 0.5,
        log_probabilities: int | None = MAX_KEPT,
    ) -> None:
        self.max_waiting = max_waiting
        self.max_wait = max_wait
        self.bodies, self.texts, self.images = (
            FairSemaphore(each, most_each=int(each * most_each))
            for each in (bodies, texts, images)
        )
        self.log_probabilities = KeptLogProbabilities(log_probabilities, most_each)


class RequestMemory:
    """The share of one HTTP request.

    Attributes:
        log_probabilities: Its log probabilities.

    Args:
        memory: The memory of all requests.
        client: Who sent the request.
    """

    def __init__(self, memory: SharedMemory, client: Hashable = ANYBODY) -> None:
        self._memory = memory
        self._client = client
        self._body: Lease | None = None
        self._images: list[Lease] = []
        self.log_probabilities = LogProbabilityShare(memory.log_probabilities, client)
        self._waiting: asyncio.Task[Any] | None = None
        self._has_left = False

    @property
    def is_body_awaited(self) -> bool:
        """Returns True if others wait for the memory that the body holds."""
        return self._body is not None and self._body.is_awaited

    async def take_body(self, size: int) -> None:
        """Waits for the memory of a body.

        Args:
            size: Its size in bytes; a body whose size isn't known takes the largest.

        Raises:
            EngineOverloadedError: If too many wait, or there isn't enough in time.
            ClientDisconnected: If the client leaves meanwhile.
        """
        if size <= SMALL_BODY or self._body is not None:
            return
        memory = self._memory
        pool = memory.bodies if size > LARGEST_TEXT else memory.texts
        must_wait = pool.must_wait(min(size, pool.most_each), self._client)
        if must_wait and pool.waiting >= memory.max_waiting:
            raise EngineOverloadedError(
                f"too many requests are waiting ({pool.waiting}); try again later"
            )
        self._body = await self._taken(pool, size)

    def shrink_body(self, size: int) -> None:
        """Gives the memory of a body back but for a number of bytes."""
        if self._body is not None and self._body.weight > size:
            self._body.release(self._body.weight - size)

    async def take_images(self, size: int) -> Lease:
        """Waits for the memory of images, in bytes, and returns it.

        Raises:
            EngineOverloadedError: If there isn't enough in time.
            ClientDisconnected: If the client leaves meanwhile.
        """
        lease = await self._taken(self._memory.images, size)
        self._images.append(lease)
        return lease

    def leave(self) -> None:
        """Gives up the place of a request that waits, since its client has left."""
        self._has_left = True
        if self._waiting is not None:
            self._waiting.cancel()

    def release(self) -> None:
        """Gives everything back."""
        self.log_probabilities.release()
        self.shrink_body(0)
        for lease in self._images:
            lease.release()

    async def _taken(self, pool: FairSemaphore, size: int) -> Lease:
        if self._has_left:
            raise ClientDisconnected
        seconds = self._memory.max_wait
        task = self._waiting = asyncio.current_task()
        try:
            # What needs more than a client may have gets all of that.
            return await pool.acquire(
                min(size, pool.most_each), self._client, seconds=seconds
            )
        except asyncio.TimeoutError:
            raise EngineOverloadedError(
                f"other requests have left no memory for this one for {seconds:g} s; "
                "try again later",
                _RETRY_SECONDS,
            ) from None
        except asyncio.CancelledError:
            if not self._has_left:
                raise
            if task is not None and sys.version_info >= (3, 11):
                task.uncancel()
            raise ClientDisconnected from None
        finally:
            self._waiting = None


class SharedMemoryMiddleware:
    """Gives each request a share of the memory, and takes it back at the end.

    Args:
        app: Gets the requests.
        memory: The memory of all requests.
        client_of: Returns who sent a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        memory: SharedMemory,
        client_of: Callable[[Scope], Hashable] = lambda scope: ANYBODY,
    ) -> None:
        self._app = app
        self._memory = memory
        self._client_of = client_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = self._client_of(scope)
        share = RequestMemory(self._memory, client)
        give_memory(scope, share)
        try:
            # Threads that prepare requests are shared as fairly as the memory.
            with waiting_as(client, self._memory.max_wait):
                await self._app(scope, receive, send)
        finally:
            share.release()


def give_memory(scope: Scope, share: RequestMemory) -> None:
    """Gives a request its share.  Whoever does so releases it at the end.

    The running task counts its log probabilities for it.

    Args:
        scope: The ASGI scope of the request.
        share: The share.
    """
    count_for(share.log_probabilities)
    scope.setdefault("state", {})[_STATE] = share


def memory_of(request: Request) -> RequestMemory:
    """Returns the share of a request.

    Raises:
        RuntimeError: If it has none, so that nothing would bound what it takes.
    """
    share = known_memory(request.scope)
    if share is None:
        raise RuntimeError("the request has no share of the memory")
    return share


def known_memory(scope: Scope) -> RequestMemory | None:
    """Returns the share of a request, or None if it has none yet.

    Args:
        scope: The ASGI scope of the request.
    """
    share = scope.get("state", {}).get(_STATE)
    return share if isinstance(share, RequestMemory) else None
