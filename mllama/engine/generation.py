"""One request on its way through the engine."""

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
    """A piece of an answer.

    Attributes:
        text: What to append; may be empty while a character is incomplete.
        token_ids: The tokens that the model chose since the last chunk.
        finish_reason: None until the last chunk, then "stop" (the model or a stop
            string ended the answer) or "length" (a limit did).
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None


@dataclass(frozen=True)
class Output:
    """A complete answer.

    Attributes:
        text: The answer, without special tokens.
        token_ids: The tokens that the model chose, an end token included.
        finish_reason: "stop" (the model or a stop string ended the answer) or
            "length" (a limit did).
        prompt_tokens: What the prompt cost: the tokens of its text, of which each
            image is one, and ``image_tokens``.
        image_tokens: Vision tokens that the text could attend to.
        completion_tokens: ``len(token_ids)``.
        time_to_first_token_seconds: From the request to its first token.
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
    """What the scheduler reported about a request, and when.

    Attributes:
        result: A ``SchedulerResult`` of MAX, the error that ended the engine, or None
            if the request was cancelled.
        at: ``time.perf_counter()`` of the report.
    """

    result: Any
    at: float


class Generation:
    """An iterator over an answer's chunks, which can be abandoned at any time.

    Abandoning it (``close``, the end of a ``with`` block, or dropping it) cancels the
    request, and what the request holds is released.

    Args:
        text: Decodes the answer.
        text_tokens: Tokens of the prompt, of which each image is one.
        image_tokens: Vision tokens of the prompt's images.
        started: ``time.perf_counter()`` when the request came.
        cancel: Tells the engine to drop the request.
    """

    def __init__(
        self,
        text: StreamingDetokenizer,
        *,
        text_tokens: int,
        image_tokens: int,
        started: float,
        cancel: Callable[[], None],
    ) -> None:
        self.steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        self._text = text
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
        """The next chunk, waiting for it.

        Raises:
            MllamaError: If the engine refuses the request while it runs.
            RuntimeError: If the engine failed.
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
        if output.final_status.value == "cancelled":  # see serving/isolation.py
            self._closed = True
            raise RuntimeError("the model failed on this request; the log says why")
        return self._chunk(list(output.tokens), output.final_status, step.at)

    def _chunk(self, token_ids: list[int], status: Any, at: float) -> Chunk:
        self._token_ids += token_ids
        if token_ids:
            self._first_at = at if self._first_at is None else self._first_at
            self._last_at = at
        text = self._text.push(token_ids)
        if status.is_done:
            text += self._text.finish()
            self._finish_reason = (
                "length" if status.value == "maximum_length" else "stop"
            )
        if self._text.stopped:
            if not status.is_done:
                self._cancel()
            self._finish_reason = "stop"
        self._pieces.append(text)
        return Chunk(text, token_ids, self._finish_reason)

    def close(self) -> None:
        """Cancels the request unless it has ended.  May be called twice."""
        if not self._closed and self._finish_reason is None:
            self._cancel()
        self._closed = True

    @property
    def output(self) -> Output:
        """The answer, once the last chunk has come.

        Raises:
            RuntimeError: If it has not.
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
        """Waits for the whole answer."""
        for _ in self:
            pass
        return self.output


def now() -> float:
    """The clock that steps are stamped with."""
    return time.perf_counter()


def as_stop_list(stop: str | Sequence[str] | None) -> list[str]:
    """Stop strings as a list.

    Raises:
        MllamaError: If one is empty or not a string.
    """
    texts = [stop] if isinstance(stop, str) else list(stop or ())
    if not all(isinstance(text, str) and text for text in texts):
        raise MllamaError("a stop string must be a string of at least one character")
    return texts
