"""What the server's dialects see of the engine behind them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.server.request_origin import RequestOrigin

if TYPE_CHECKING:
    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles


class Turns(Protocol):
    """Says when an engine may begin with the answers to a request."""

    async def next(self) -> None:
        """Waits until one more answer may begin."""
        ...


class EngineClient(Protocol):
    """An engine that answers requests: MAX's worker process, a cluster, a test's fake.

    A dialect is thin: it makes a ``GenerationRequest`` of a body, iterates over
    :meth:`generate`, and writes each event in its own form.
    """

    def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request.

        The first event is ``Accepted``.  An error in the request is raised in its
        place, so that a route can answer with a status if it awaits the first event
        before it sends headers.  Pieces of several choices come interleaved.

        Closing the generator (``aclosing``), or cancelling the task that iterates,
        cancels all choices and frees their memory.

        Args:
            request: The request.
            origin: The HTTP request that it belongs to; None is none.
            turns: Awaited for each answer when all but the model has been done for it;
                None lets them begin at once.

        Raises:
            RequestError: If the request can't be answered as it is (status 400).
            ImageError: If one of its images can't be used (status 400).
            EngineOverloadedError: If it came while too many others wait (429).
            EngineError: If the model failed on it, or the engine has died (500).
        """
        ...

    def prepare_image(self, image: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to decode an image and to split it into tiles, in another thread.

        The result, finished or not, belongs in ``GenerationRequest.images``.

        Args:
            image: An image file, or its content in a format that the server accepts.

        Returns:
            The tiles.  The future raises ImageError if the image can't be used.
        """
        ...

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        """Returns the ids of a prompt's tokens, in which each image is one.

        Raises:
            RequestError: If the chat template rejects the messages.
        """
        ...

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[ImageTiles]
    ) -> int:
        """Returns the number of tokens that usage would count for a prompt.

        Args:
            prompt: The prompt.
            images: Its images in order.

        Raises:
            RequestError: If the chat template rejects the messages, or the images don't
                match the prompt or can't fit.
            NumberedImageError: If an image can't be used, of an engine that decodes
                images elsewhere.
        """
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what a token stands for; a special token's name for a special one.

        A token may hold a part of a character, so that its bytes aren't UTF-8.
        """
        ...
