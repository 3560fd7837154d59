"""Finds the addresses of hosts, in threads that clients share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Any, Final

from mllama.server.clients import current_client
from mllama.server.scheduling.fair_semaphore import FairSemaphore
from mllama.utils.threads import no_thread

_THREADS: Final = 64
_THREADS_EACH: Final = 8
"""Threads of one client.  A name whose servers are silent takes one for half a minute,
and can't be given up.
"""


class HostLookups:
    """Finds addresses, so that the slow names of one client don't hold up others'.

    The event loop's own lookups share a few threads.  All of it belongs to one event
    loop.
    """

    def __init__(self) -> None:
        self._threads = FairSemaphore(_THREADS, most_each=_THREADS_EACH)

    async def addresses(self, host: str, port: int) -> Sequence[Any]:
        """Returns what ``socket.getaddrinfo`` does, and raises what it raises.

        Args:
            host: The host's name or address.
            port: The port.

        Raises:
            EngineUnavailableError: If the system has no thread for it.
        """
        thread = await self._threads.acquire(1, current_client())
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[Any]] = loop.create_future()

        def end(found: Sequence[Any], error: Exception | None) -> None:
            thread.release()
            if future.done():
                return  # Whoever asked has given up.
            if error is None:
                future.set_result(found)
            else:
                future.set_exception(error)

        def look_up() -> None:
            found: Sequence[Any] = ()
            error = None
            try:
                found = socket.getaddrinfo(host, port)
            except Exception as caught:
                error = caught
            # The event loop may have ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(end, found, error)

        try:
            # The end of the server doesn't wait for a daemon.
            threading.Thread(target=look_up, name="host lookup", daemon=True).start()
        except RuntimeError as error:
            thread.release()
            raise no_thread() from error
        return await future
