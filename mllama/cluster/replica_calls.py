"""Calls of replicas through Ray Serve, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final

from grpc import RpcError
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException, RequestCancelledError

from mllama.errors import EngineError, EngineUnavailableError

logger = logging.getLogger("mllama")

_RESTART_SECONDS: Final = 5
"""When another try may find a replica in place of one that has died."""


class ReplicaLostError(EngineUnavailableError):
    """A replica has died before it had answered a request.

    Args:
        how: What happened to it.
        node: The address of its node; empty if it has not said so.
    """

    def __init__(self, how: str, node: str = "") -> None:
        place = f" on node {node}" if node else ""
        super().__init__(
            f"the replica{place} that had the request {how}; another one takes its "
            f"place, so try again in {_RESTART_SECONDS} s",
            _RESTART_SECONDS,
        )
        self.how = how


@asynccontextmanager
async def receiving(
    response: Any, messages: AsyncIterable[Any]
) -> AsyncIterator[asyncio.Queue[Any]]:
    """Yields a queue with what a replica says, and gives its request up on exit.

    The last one in the queue is an error, or None.

    Args:
        response: Ray Serve's response.
        messages: What comes with it.
    """
    received: asyncio.Queue[Any] = asyncio.Queue()

    async def receive() -> None:
        try:
            async for message in messages:
                received.put_nowait(message)
        except (asyncio.CancelledError, RequestCancelledError):
            # This request's own end, or that of a replica which has to stop.
            received.put_nowait(ReplicaLostError("was stopped"))
        except Exception as error:
            received.put_nowait(_own_error(error))
        else:
            received.put_nowait(None)

    task = asyncio.ensure_future(receive())
    try:
        yield received
    finally:
        if not task.done():
            response.cancel()
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def only(response: Awaitable[Any]) -> AsyncIterator[Any]:
    """Yields the result of a call that has one."""
    yield await response


def _own_error(error: Exception) -> Exception:
    """Returns an error of Ray's as one of this package's."""
    if isinstance(error, RayTaskError):
        # Replicas report errors as values: this is one that they don't know.
        logger.error("a replica failed on a request: %s", error)
        return EngineError("a replica failed on this request; the log has the reason")
    if isinstance(error, (RayError, RayServeException, RpcError)):
        logger.warning("a replica is lost: %s", " ".join(str(error).split())[:500])
        return ReplicaLostError("has died")
    return error
