"""The end of a server: it takes nothing new and finishes what runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama.errors import EngineUnavailableError
from mllama.server.access.policy import METRICS, is_at
from mllama.server.errors import ErrorForm, error_response
from mllama.server.paths import path_below_root

logger = logging.getLogger("mllama")

_ALWAYS_ANSWERED: Final = ("/health/live", METRICS)
"""Paths, with those below them, that say how the server is, also as it ends."""

_FAREWELL_SECONDS: Final = 2.0
"""How long clients whose answers are cut off have to read why."""

_RETRY_SECONDS: Final = 5
"""When another try may find a new server."""


class Drainable(Protocol):
    """Answers requests until it is drained."""

    def refuse_waiting(self, error: Callable[[], Exception]) -> None:
        """Ends requests that have not begun, and refuses new ones.

        Args:
            error: Makes the error of each.
        """
        ...

    def end_running(self, error: Callable[[], Exception]) -> None:
        """Ends the requests that run.

        Args:
            error: Makes the error of each.
        """
        ...


class Shutdown:
    """Whether the server is about to end, and the requests in progress until then.

    Args:
        timeout: How long they may take, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._engines: list[Drainable] = []
        self._is_draining = False
        self._in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_draining(self) -> bool:
        """Returns True if no new requests are taken."""
        return self._is_draining

    @property
    def in_progress(self) -> int:
        """Returns the number of HTTP requests that are being answered."""
        return self._in_progress

    def drain_engine(self, engine: Drainable) -> None:
        """Adds what answers requests."""
        self._engines.append(engine)

    def refusal(self) -> EngineUnavailableError:
        """Returns the error of a request that comes too late."""
        return EngineUnavailableError(
            "The server is shutting down; try again in a while.", _RETRY_SECONDS
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts an HTTP request while it is answered."""
        self._in_progress += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._idle.set()

    def begin(self) -> None:
        """Takes no new requests from now on."""
        self._is_draining = True

    async def drain(self) -> None:
        """Waits for the requests in progress, and ends those that take too long."""
        self.begin()
        for engine in self._engines:
            engine.refuse_waiting(self.refusal)
        if await self._are_done_within(self.timeout):
            return
        logger.warning(
            "ending %d requests that were not finished within %g s "
            "(--shutdown-timeout)",
            self._in_progress,
            self.timeout,
        )
        for engine in self._engines:
            engine.end_running(
                lambda: EngineUnavailableError(
                    "The server has shut down before the answer was complete.",
                    _RETRY_SECONDS,
                )
            )
        await self._are_done_within(_FAREWELL_SECONDS)

    async def _are_done_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            return False
        return True


class ShutdownMiddleware:
    """Refuses requests while the server is about to end, and counts those before.

    It answers for readiness too: a balancer sends no more requests.

    Args:
        app: Gets the others.
        shutdown: Whether the server is about to end.
        form_of: Returns the form of a request's errors.
    """

    def __init__(
        self, app: ASGIApp, shutdown: Shutdown, form_of: Callable[[Scope], ErrorForm]
    ) -> None:
        self._app = app
        self._shutdown = shutdown
        self._form_of = form_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or is_at(path_below_root(scope), *_ALWAYS_ANSWERED):
            await self._app(scope, receive, send)
            return
        if self._shutdown.is_draining:
            response = error_response(self._shutdown.refusal(), self._form_of(scope))
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._shutdown.is_draining:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        with self._shutdown.request():
            await self._app(scope, receive, send_and_close)
