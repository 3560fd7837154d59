"""The engine for the tasks of an event loop, as the server's dialects see one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mllama.engine.engine import Engine
from mllama.engine.generation import Step, now, output_of
from mllama.errors import MllamaError
from mllama.requests.answer_attention import answer_attention
from mllama.requests.answers import AnswerFailedError, Answers
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Accepted, AnswerAttention, Event, Piece
from mllama.requests.map_task import check_longest
from mllama.requests.request import GenerationRequest
from mllama.requests.token_bytes import TokenBytes
from mllama.requests.token_counts import count_tokens, prompt_tokens

if TYPE_CHECKING:
    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles
    from mllama.requests.preparation import PreparedRequest


class AsyncEngineClient:
    """Answers requests with an engine of this process.

    It has the methods of ``mllama.server.engine_client.EngineClient``, so that the
    server's dialects can be used without a server.  It belongs to the event loop that
    runs when it is made.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._token_bytes = TokenBytes(engine.tokenizer.delegate)
        self._deliveries = _Deliveries(asyncio.get_running_loop())

    async def generate(
        self,
        request: GenerationRequest,
        *,
        origin: Any = None,
        turns: Any = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request.

        Args:
            request: The request.
            origin: Not used: nobody measures these requests.
            turns: Its ``next`` is awaited for the first answer; None lets it begin at
                once.

        Raises:
            MllamaError: If the request can't be answered as it is.
            EngineError: If the model failed on it.
            RuntimeError: If the engine is closed or has failed.
        """
        started = now()
        prepared = await asyncio.wrap_future(self._engine.prepare(request))
        ids = [context.request_id for context in prepared.contexts]
        if request.attention is not None:
            check_longest(prepared, self._engine.tokenizer.vision_config)
            self._engine.check_attention(prepared)
        tokens: list[list[int]] = [[] for _ in ids]
        answers = Answers(prepared, self._engine.tokenizer, started)
        steps = _Steps(self._deliveries)
        if turns is not None:
            await turns.next()
        self._engine.start(prepared, steps)
        try:
            yield Accepted()
            while not answers.are_finished:
                step = await steps.arrived.get()
                if answers.is_finished(step.choice):
                    continue
                output = output_of(step)
                for event in answers.receive(step.choice, [output], step.at):
                    if request.attention is not None and isinstance(event, Piece):
                        tokens[event.choice] += event.token_ids
                    yield event
                if answers.is_finished(step.choice) and not step.result.is_done:
                    self._engine.cancel([ids[step.choice]])
            if request.attention is not None:
                for choice, answer in enumerate(tokens):
                    yield await asyncio.to_thread(
                        self._attention, prepared, choice, answer
                    )
        except AnswerFailedError as failed:
            cause = await asyncio.to_thread(failed.cause)
            raise failed if cause is None else cause from None
        finally:
            if not answers.are_finished:
                self._engine.cancel(ids)

    def _attention(
        self, prepared: PreparedRequest, choice: int, answer: Sequence[int]
    ) -> AnswerAttention:
        """Returns where the words of an answer looked, or why that isn't known."""
        try:
            maps = self._engine.attention_maps(prepared, answer)
        except MllamaError as error:
            return AnswerAttention(choice, error=" ".join(str(error).split()))
        delegate = self._engine.tokenizer.delegate
        return answer_attention(prepared, choice, answer, maps, delegate)

    def prepare_image(self, image: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to decode an image and to split it into tiles, in another thread."""
        return self._engine.prepare_image(image)

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        """Returns the ids of a prompt's tokens, in which each image is one.

        Raises:
            RequestError: If the chat template rejects the messages.
        """
        return await prompt_tokens(
            prompt, self._engine.tokenizer, self._engine.settings.max_length
        )

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[ImageTiles]
    ) -> int:
        """Returns the number of tokens that usage would count for a prompt.

        Raises:
            RequestError: If the chat template rejects the messages, or the images don't
                match the prompt or can't fit.
        """
        return await count_tokens(
            prompt, images, self._engine.tokenizer, self._engine.settings.max_length
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what a token stands for; a special token's name for a special one."""
        return self._token_bytes(token_id)


class _Deliveries:
    """Brings the scheduler's reports to an event loop, those of a step together.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: deque[tuple[_Steps, Step]] = deque()
        self._is_due = False

    def add(self, steps: _Steps, step: Step) -> None:
        """Hands a report over, from any thread."""
        self._pending.append((steps, step))
        if not self._is_due:
            self._is_due = True
            # A loop that has ended has no use for it.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        while self._pending:
            steps, step = self._pending.popleft()
            steps.arrived.put_nowait(step)


class _Steps:
    """The reports about one request."""

    def __init__(self, deliveries: _Deliveries) -> None:
        self._deliveries = deliveries
        self.arrived: asyncio.Queue[Step] = asyncio.Queue()

    def put(self, step: Step) -> None:
        """Adds a report, from the scheduler's thread."""
        self._deliveries.add(self, step)
