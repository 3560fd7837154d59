"""Answers that are generated in a replica, as messages to the front."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from mllama.cluster.messages import (
    AnswerMessage,
    Failure,
    RemoteRequest,
    ReplicaFigures,
)
from mllama.errors import (
    EngineError,
    EngineUnavailableError,
    ImageError,
    NumberedImageError,
)
from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.engine_client import EngineClient

if TYPE_CHECKING:
    from mllama.images.preprocess import ImageTiles

logger = logging.getLogger("ray.serve")

_MESSAGE_SECONDS: Final = 0.005
"""Time from one message of an answer to the next, at least.

A message takes a millisecond of the cores, as long as a small model's step: its tokens
share messages.
"""


class RemoteAnswers:
    """What a replica does for the front.

    Attributes:
        running: Requests that are being answered.
        reported_at: When the engine last said something about one of them, by the
            monotonic clock.

    Args:
        client: The replica's engine.
        figures: Returns what the replica tells about itself.
        check_alive: Raises RuntimeError if the engine has failed as a whole.
    """

    def __init__(
        self,
        client: EngineClient,
        figures: Callable[[], ReplicaFigures],
        check_alive: Callable[[], None],
    ) -> None:
        self._client = client
        self._figures = figures
        self._check_alive = check_alive
        self.running = 0
        self.reported_at = time.monotonic()

    async def answer(
        self, remote: RemoteRequest
    ) -> AsyncGenerator[AnswerMessage, None]:
        """Answers a request.

        Closing the generator, or cancelling the task that iterates, cancels the
        request.

        Args:
            remote: The request.

        Yields:
            The replica's figures with the first events, then what is ready each time,
            and the figures again with the last.
        """
        ready: list[Any] = [self._figures()]
        arrived = asyncio.Event()
        task = asyncio.ensure_future(self._follow(remote, ready, arrived))
        if not self.running:
            self.reported_at = time.monotonic()
        self.running += 1
        sent_at = 0.0
        try:
            while not task.done() or ready:
                await arrived.wait()
                early = sent_at + _MESSAGE_SECONDS - time.monotonic()
                if early > 0 and not task.done():
                    await asyncio.sleep(early)
                arrived.clear()
                message, ready[:] = list(ready), []
                if message:
                    sent_at = time.monotonic()
                    yield message
        finally:
            self.running -= 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(
        self, remote: RemoteRequest, ready: list[Any], arrived: asyncio.Event
    ) -> None:
        """Collects the events of a request; its failure is the last of them."""
        try:
            request = replace(
                remote.request, images=_RemoteImages(self._client, remote.images)
            )
            async with aclosing(self._client.generate(request)) as events:
                async for event in events:
                    self.reported_at = time.monotonic()
                    ready.append(event)
                    arrived.set()
            ready.append(self._figures())
        except Exception as error:
            ready += [self._figures(), self._failure(error, remote.request_id)]
        finally:
            self.reported_at = time.monotonic()
            arrived.set()

    def _failure(self, error: Exception, request_id: str | None = None) -> Failure:
        failure = Failure.of(error)
        if failure is not None:
            return failure
        node = self._figures().node
        try:
            self._check_alive()
        except RuntimeError:
            logger.error("the engine has failed; the replica is replaced")
            return Failure(
                kind=EngineUnavailableError.__name__,
                message=f"the engine of a replica on node {node} has failed; try again",
                retry_after=1,
            )
        logger.error("request %s failed", request_id, exc_info=error)
        return Failure(
            kind=EngineError.__name__,
            message=f"the replica on node {node} failed on this request; its log has "
            "the reason",
        )

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int] | Failure:
        """Returns the ids of a prompt's tokens, in which each image is one."""
        try:
            return await self._client.tokenize(prompt)
        except Exception as error:
            return self._failure(error)

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[bytes]
    ) -> int | Failure:
        """Returns the number of tokens that usage would count for a prompt.

        Args:
            prompt: The prompt.
            images: The files of its images, in order.
        """
        try:
            loaded = await _RemoteImages(self._client, images).load()
            return await self._client.count_tokens(prompt, loaded)
        except Exception as error:
            return self._failure(error)


class _RemoteImages:
    """Images that are decoded when the engine comes to need them.

    Args:
        client: Decodes them.
        files: Their files, in order.
    """

    def __init__(self, client: EngineClient, files: Sequence[bytes]) -> None:
        self._client = client
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    async def load(self) -> list[ImageTiles]:
        """Returns the images.

        Raises:
            NumberedImageError: If one can't be used.
        """
        futures = [self._client.prepare_image(file) for file in self._files]
        try:
            return [
                await _tiles(future, number) for number, future in enumerate(futures, 1)
            ]
        finally:
            # Those that have not begun aren't needed after an error.
            for future in futures:
                future.cancel()


async def _tiles(future: Future[ImageTiles], number: int) -> ImageTiles:
    try:
        return await asyncio.wrap_future(future)
    except ImageError as error:
        raise NumberedImageError(f"image {number}: {error}", number) from error
