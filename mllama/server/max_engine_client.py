"""The engine client that MAX Serve's worker process stands behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol

from max.pipelines.context.exceptions import InputError

from mllama.errors import EngineError, EngineOverloadedError, RequestError
from mllama.max_compat.server import RequestQueueFull
from mllama.requests.answers import AnswerFailedError, Answers
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.events import Accepted, Event, Piece
from mllama.requests.format_grammars import FormatGrammars
from mllama.requests.piece_merger import PieceMerger
from mllama.requests.preparation import PreparedRequest, prepare_request
from mllama.requests.request import GenerationRequest
from mllama.requests.token_bytes import TokenBytes
from mllama.requests.token_counts import count_tokens, prompt_tokens
from mllama.requests.token_grammars import TokenGrammars
from mllama.server.answer_streams import AnswerStreams
from mllama.server.attention_client import AttentionClient
from mllama.server.engine_client import Turns
from mllama.server.request_origin import RequestOrigin
from mllama.server.supervisor.worker_link import WorkerLink

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles


ATTENTION_IS_OFF: Final = (
    "attention needs a server started with --attention, which computes attention maps"
)


class Workers(Protocol):
    """Has a worker, another one after it has died, or none at the moment."""

    def current(self) -> WorkerLink:
        """Returns the way to the worker.

        Raises:
            EngineUnavailableError: If there is none.
        """
        ...


class MaxEngineClient:
    """An :class:`~mllama.server.engine_client.EngineClient` over MAX's worker.

    Args:
        workers: Has the worker.
        tokenizer: The model's tokenizer.
        settings: The engine's limits and defaults.
        min_piece_tokens: Tokens of a piece of an answer, at least; see
            :class:`~mllama.requests.piece_merger.PieceMerger`.
        attention: Asks for attention maps; None refuses requests for them.
    """

    def __init__(
        self,
        workers: Workers,
        tokenizer: Any,
        settings: EngineSettings,
        *,
        min_piece_tokens: int = 1,
        attention: AttentionClient | None = None,
    ) -> None:
        self._workers = workers
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer.delegate)
        self._min_piece_tokens = min_piece_tokens
        self._attention = attention
        self.settings = settings
        self._grammars = FormatGrammars(
            lambda: TokenGrammars(tokenizer.delegate, settings.end_tokens)
        )

    def close(self) -> None:
        """Gives up what runs in threads, for which the program's end would wait."""
        self._grammars.close()

    async def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request; see :class:`~mllama.server.engine_client.EngineClient`."""
        # Without a worker, a request is refused before its preparation.
        self._workers.current()
        origin = RequestOrigin() if origin is None else origin
        attention = self._attention_for(request)
        prepared = await self._prepare(request, origin.request_id)
        if attention is not None:
            attention.begin(prepared)
        tokens: list[list[int]] = [[] for _ in range(request.choices)]
        answers = Answers(prepared, self._tokenizer, origin.arrived_ns / 1e9)
        merger = (
            PieceMerger(self._min_piece_tokens) if self._min_piece_tokens > 1 else None
        )
        streams = AnswerStreams(self._workers.current, prepared.contexts, turns)
        try:
            try:
                await streams.start()
            except RequestQueueFull as error:
                raise EngineOverloadedError(
                    "too many requests are waiting; try again later"
                ) from error
            yield Accepted()
            async with aclosing(streams.reports()) as reports:
                async for choice, outputs in reports:
                    for event in answers.receive(
                        choice, outputs, time.perf_counter_ns() / 1e9
                    ):
                        if attention is not None and isinstance(event, Piece):
                            tokens[event.choice] += event.token_ids
                        if merger is None:
                            yield event
                            continue
                        for due in merger.push(event):
                            yield due
                    if answers.is_finished(choice) and not outputs[-1].is_done:
                        await streams.end(choice)
            if not answers.are_finished:
                streams.check_worker()
                raise EngineError("the engine dropped the request")
            if attention is not None:
                for choice, answer in enumerate(tokens):
                    yield await attention.of_answer(
                        self._workers.current, self._prepare, prepared, choice, answer
                    )
        except AnswerFailedError as failed:
            cause = await asyncio.to_thread(failed.cause)
            raise failed if cause is None else cause from None
        except InputError as error:
            # The only errors that MAX's scheduler reports by itself.
            streams.check_worker()
            raise RequestError(" ".join(str(error).split())) from error
        finally:
            await streams.close()

    async def _prepare(
        self, request: GenerationRequest, request_id: str | None
    ) -> PreparedRequest:
        return await prepare_request(
            request,
            self._tokenizer,
            self.settings,
            request_id,
            grammars=self._grammars,
        )

    def _attention_for(self, request: GenerationRequest) -> AttentionClient | None:
        """Returns what asks for the attention maps that a request wants, if any.

        Raises:
            RequestError: If there are none, or not of such layers or heads.
        """
        if request.attention is None:
            return None
        if self._attention is None:
            raise RequestError(ATTENTION_IS_OFF, "attention")
        self._attention.check(request.attention)
        return self._attention

    def prepare_image(self, image: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to decode an image and to split it into tiles, in another thread."""
        tiles: Future[ImageTiles] = self._tokenizer.prepare_image(image)
        return tiles

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        """Returns the ids of a prompt's tokens, in which each image is one.

        Raises:
            RequestError: If the chat template rejects the messages.
        """
        return await prompt_tokens(prompt, self._tokenizer, self.settings.max_length)

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[ImageTiles]
    ) -> int:
        """Returns the number of tokens that usage would count for a prompt.

        Raises:
            RequestError: If the chat template rejects the messages, or the images don't
                match the prompt or can't fit.
        """
        return await count_tokens(
            prompt, images, self._tokenizer, self.settings.max_length
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what a token stands for; a special token's name for a special one."""
        return self._token_bytes(token_id)
