"""The answers to one request, while they are generated."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mllama.engine.outputs import Choice, Chunk, Output
from mllama.errors import EngineError, RequestError
from mllama.requests.answers import AnswerFailedError, Answers
from mllama.requests.events import (
    Event,
    Finished,
    Piece,
    PromptRead,
    TokenLogprob,
    ToolCallEvent,
)
from mllama.requests.tool_calls.collector import ToolCallCollector

if TYPE_CHECKING:
    from mllama.engine.attention.attention import Attention
    from mllama.requests.preparation import PreparedRequest


@dataclass(frozen=True)
class Step:
    """A report of the scheduler about an answer.

    Attributes:
        choice: The answer among those of its request.
        result: MAX's ``SchedulerResult``, the error that ended the engine, or None if
            the answer was cancelled.
        at: Time of the report, from ``time.perf_counter()``.
    """

    choice: int
    result: Any
    at: float


def output_of(step: Step) -> Any:
    """Returns MAX's ``TextGenerationOutput`` of a report.

    Raises:
        EngineError: If the engine has ended.
        RequestError: If the scheduler has refused or cancelled the answer.
    """
    if isinstance(step.result, BaseException):
        raise EngineError(
            "the engine stopped while working on this request"
        ) from step.result
    if step.result is None or step.result.result is None:
        reason = getattr(step.result, "error", None)
        raise RequestError(reason or "the request was cancelled")
    return step.result.result


@dataclass
class _Collected:
    """An answer so far."""

    pieces: list[Piece] = field(default_factory=list)
    calls: ToolCallCollector = field(default_factory=ToolCallCollector)
    end: Finished | None = None


class Generation:
    """An answer that is being generated: an iterator over its chunks.

    For example::

        with llm.generate("Describe it.", ["photo.jpg"], stream=True) as generation:
            for chunk in generation:
                print(chunk.text, end="", flush=True)
        print(generation.output.finish_reason)

    The chunks of several answers come interleaved.  A generation can be abandoned at
    any time: ``close``, leaving the ``with`` block, or dropping the object cancels the
    request and frees its memory.

    Args:
        prepared: The request.
        tokenizer: The model's tokenizer.
        started: Time of the request, from ``time.perf_counter()``.
        cancel: Cancels answers in the engine, by their numbers.
        attention: Computes where an answer looked, given its tokens and its text; None
            if nobody asked.
    """

    def __init__(
        self,
        prepared: PreparedRequest,
        tokenizer: Any,
        *,
        started: float,
        cancel: Callable[[Sequence[int]], None],
        attention: Callable[[Sequence[int], str], Attention] | None = None,
    ) -> None:
        self.steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        self._answers = Answers(prepared, tokenizer, started)
        self._sampling = prepared.request.sampling
        self._started = started
        self._cancel = cancel
        self._attend = attention
        self._attention: dict[int, Attention] = {}
        self._prompt: PromptRead | None = None
        self._collected = [_Collected() for _ in range(prepared.request.choices)]
        self._first_at: float | None = None
        self._last_at = started
        self._closed = False
        self._stopped = False

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __next__(self) -> Chunk:
        """Waits for the next chunk and returns it.

        Raises:
            MllamaError: If the engine rejects the running request.
            RuntimeError: If the engine or the model failed.
        """
        while not self._closed and not self._answers.are_finished:
            step = self.steps.get()
            if self._stopped:
                self.close()
                break
            if self._answers.is_finished(step.choice):
                continue
            try:
                events = self._events(step)
            except BaseException:
                self.close()
                raise
            chunk = self._chunk(step.choice, events)
            if self._answers.is_finished(step.choice) and not step.result.is_done:
                self._cancel([step.choice])
            if chunk is not None:
                return chunk
        raise StopIteration

    def _events(self, step: Step) -> list[Event]:
        output = output_of(step)
        if output.tokens:
            self._first_at = step.at if self._first_at is None else self._first_at
            self._last_at = step.at
        try:
            return self._answers.receive(step.choice, [output], step.at)
        except AnswerFailedError as failed:
            cause = failed.cause()
            raise failed if cause is None else cause from None

    def _chunk(self, choice: int, events: Sequence[Event]) -> Chunk | None:
        """Records the events of a step, and returns their chunk, if they have one."""
        collected = self._collected[choice]
        # More than one if an answer has text before or after calls.
        pieces: list[Piece] = []
        calls: list[ToolCallEvent] = []
        for event in events:
            if isinstance(event, PromptRead):
                self._prompt = event
            elif isinstance(event, Piece):
                pieces.append(event)
            elif isinstance(event, ToolCallEvent):
                calls.append(event)
                collected.calls.add(event)
            elif isinstance(event, Finished):
                collected.end = event
        collected.pieces += pieces
        token_ids = [token for piece in pieces for token in piece.token_ids]
        if collected.end is None and not token_ids:
            return None
        return Chunk(
            "".join(piece.text for piece in pieces),
            token_ids,
            None if collected.end is None else collected.end.reason,
            choice,
            self._logprobs(pieces),
            calls,
        )

    def _logprobs(self, pieces: Sequence[Piece]) -> list[TokenLogprob] | None:
        """Returns log probabilities of pieces if they were asked for."""
        if self._sampling.logprobs is None:
            return None
        return [each for piece in pieces for each in piece.logprobs]

    def stop(self) -> None:
        """Ends the iteration without its next chunk, which cancels the request.

        It takes no lock, so that a signal handler may call it while the same thread
        waits for a chunk.
        """
        self._stopped = True
        self.steps.put(Step(0, None, now()))

    def close(self) -> None:
        """Cancels the request unless it has ended.  Further calls do nothing."""
        if not self._closed and not self._answers.are_finished:
            self._closed = True
            self._cancel(range(len(self._collected)))
        self._closed = True

    @property
    def output(self) -> Output:
        """Returns the complete answer, after the last chunk.

        Attention maps are computed when this is first read.

        Raises:
            MllamaError: If attention maps were asked for and can't be computed.
            RuntimeError: If the answer is not complete.
        """
        if self._prompt is None or not self._answers.are_finished:
            raise RuntimeError("the answer is not complete")
        choices = [self._choice(number) for number in range(len(self._collected))]
        first_at = self._started if self._first_at is None else self._first_at
        tokens = sum(len(choice.token_ids) for choice in choices)
        elapsed = self._last_at - first_at
        rate = (tokens - 1) / elapsed if tokens > 1 and elapsed > 0 else None
        logprobs = self._prompt.logprobs
        return Output(
            text=choices[0].text,
            token_ids=choices[0].token_ids,
            finish_reason=choices[0].finish_reason,
            prompt_tokens=self._prompt.prompt_tokens,
            image_tokens=self._prompt.image_tokens,
            completion_tokens=tokens,
            time_to_first_token_seconds=first_at - self._started,
            tokens_per_second=rate,
            choices=choices,
            prompt_token_ids=list(self._prompt.token_ids),
            cached_tokens=self._prompt.cached_tokens,
            prompt_logprobs=None if logprobs is None else list(logprobs),
        )

    def _choice(self, number: int) -> Choice:
        collected = self._collected[number]
        assert collected.end is not None
        pieces = collected.pieces
        token_ids = [token for piece in pieces for token in piece.token_ids]
        text = "".join(piece.text for piece in pieces)
        if self._attend is not None and number not in self._attention:
            self._attention[number] = self._attend(token_ids, text)
        return Choice(
            text=text,
            token_ids=token_ids,
            finish_reason=collected.end.reason,
            stop=collected.end.stop,
            logprobs=self._logprobs(pieces),
            tool_calls=collected.calls.calls,
            attention=self._attention.get(number),
        )

    def wait(self) -> Output:
        """Waits for the complete answer and returns it.

        Raises:
            MllamaError: If the engine rejects the running request.
            RuntimeError: If the engine or the model failed, or the request was
                abandoned.
        """
        for _ in self:
            pass
        return self.output


def now() -> float:
    """Returns the time in seconds, by the clock of :class:`Step`."""
    return time.perf_counter()
