"""The answer of one request, while it is generated and when it is complete."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mllama.errors import MllamaError
from mllama.requests.detokenizer import StreamingDetokenizer


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer, as ``LLM.chat(..., stream=True)`` yields it.

    The texts of all chunks, joined, are the answer.

    Attributes:
        text: Text to append to the answer; empty while a character is incomplete or
            might belong to a stop string.
        token_ids: Tokens generated since the last chunk.
        finish_reason: None until the last chunk; then "stop" if the model or a stop
            string ended the answer, or "length" if a limit did.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None


@dataclass(frozen=True)
class Output:
    """A complete answer, with token counts and times.

    For example::

        output = llm.generate("What is in the picture?", ["photo.jpg"])
        print(output.text, output.finish_reason, output.completion_tokens)

    Attributes:
        text: The answer, without special tokens and without the stop string.
        token_ids: Generated tokens, including an end token.
        finish_reason: "stop" if the model or a stop string ended the answer, "length"
            if ``max_new_tokens`` or the context did.
        prompt_tokens: Tokens of the prompt's text, in which each image is one token,
            plus ``image_tokens``.
        image_tokens: Image tokens of the images, to which the text attends.
        completion_tokens: Number of generated tokens, ``len(token_ids)``.
        time_to_first_token_seconds: Seconds from the request to its first token.
        tokens_per_second: Rate of the tokens after the first; None if there are none.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    time_to_first_token_seconds: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Step:
    """A report of the scheduler about a request.

    Attributes:
        result: MAX's ``SchedulerResult``, the error that ended the engine, or None if
            the request was cancelled.
        at: Time of the report, from ``time.perf_counter()``.
    """

    result: Any
    at: float


class Generation:
    """An answer that is being generated: an iterator over its chunks.

    For example::

        with llm.generate("Describe it.", ["photo.jpg"], stream=True) as generation:
            for chunk in generation:
                print(chunk.text, end="", flush=True)
        print(generation.output.finish_reason)

    It can be abandoned at any time: ``close``, leaving the ``with`` block, or dropping
    the object cancels the request and frees its memory.

    Args:
        detokenizer: Decodes the answer.
        text_tokens: Tokens of the prompt's text, in which each image is one.
        image_tokens: Image tokens of the prompt's images.
        started: Time of the request, from ``time.perf_counter()``.
        cancel: Cancels the request in the engine.
    """

    def __init__(
        self,
        detokenizer: StreamingDetokenizer,
        *,
        text_tokens: int,
        image_tokens: int,
        started: float,
        cancel: Callable[[], None],
    ) -> None:
        self.steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        self._detokenizer = detokenizer
        self._text_tokens = text_tokens
        self._image_tokens = image_tokens
        self._started = started
        self._cancel = cancel
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._first_at: float | None = None
        self._last_at = started
        self._finish_reason: str | None = None
        self._closed = False

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
        if self._closed or self._finish_reason is not None:
            raise StopIteration
        step = self.steps.get()
        if isinstance(step.result, BaseException):
            self._closed = True
            raise RuntimeError(
                "the engine stopped while working on this request"
            ) from step.result
        if step.result is None or step.result.result is None:
            self._closed = True
            raise MllamaError(
                getattr(step.result, "error", None) or "the request was cancelled"
            )
        output = step.result.result
        # runtime/fault_isolation.py gives this status to a request that failed.
        if output.final_status.value == "cancelled":
            self._closed = True
            raise RuntimeError("the model failed on this request; the log says why")
        return self._chunk(list(output.tokens), output.final_status, step.at)

    def _chunk(self, token_ids: list[int], status: Any, at: float) -> Chunk:
        self._token_ids += token_ids
        if token_ids:
            self._first_at = at if self._first_at is None else self._first_at
            self._last_at = at
        text = self._detokenizer.push(token_ids)
        if status.is_done:
            text += self._detokenizer.finish()
            self._finish_reason = (
                "length" if status.value == "maximum_length" else "stop"
            )
        if self._detokenizer.stopped:
            if not status.is_done:
                self._cancel()
            self._finish_reason = "stop"
        self._pieces.append(text)
        return Chunk(text, token_ids, self._finish_reason)

    def close(self) -> None:
        """Cancels the request unless it has ended.  Further calls do nothing."""
        if not self._closed and self._finish_reason is None:
            self._cancel()
        self._closed = True

    @property
    def output(self) -> Output:
        """Returns the complete answer, after the last chunk.

        Raises:
            RuntimeError: If the answer is not complete.
        """
        if self._finish_reason is None:
            raise RuntimeError("the answer is not complete")
        first_at = self._started if self._first_at is None else self._first_at
        later = len(self._token_ids) - 1
        elapsed = self._last_at - first_at
        return Output(
            text="".join(self._pieces),
            token_ids=list(self._token_ids),
            finish_reason=self._finish_reason,
            prompt_tokens=self._text_tokens + self._image_tokens,
            image_tokens=self._image_tokens,
            completion_tokens=len(self._token_ids),
            time_to_first_token_seconds=first_at - self._started,
            tokens_per_second=later / elapsed if later > 0 and elapsed > 0 else None,
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


def as_stop_list(stop: str | Sequence[str] | None) -> list[str]:
    """Returns stop strings as a list.

    Raises:
        MllamaError: If one is empty or not a string.
    """
    texts = [stop] if isinstance(stop, str) else list(stop or ())
    if not all(isinstance(text, str) and text for text in texts):
        raise MllamaError("a stop string must be a string of at least one character")
    return texts
