"""Turns what MAX's scheduler reports about a request into its events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mllama.errors import EngineError, RequestError
from mllama.requests.detokenizer import StreamingDetokenizer
from mllama.requests.events import (
    Event,
    Finished,
    FinishReason,
    Piece,
    PromptRead,
    Timings,
    TokenLogprob,
)
from mllama.requests.tool_calls.parser import Part, add_part
from mllama.requests.tool_use import ToolUse, answer_format
from mllama.sampling.log_probabilities import ALL

if TYPE_CHECKING:
    from mllama.requests.preparation import PreparedRequest

_NO_TOOLS: Final = ToolUse(names=())


class AnswerFailedError(EngineError):
    """The model failed on a request.

    Args:
        cause: Returns the error in the request that made it fail, or None.  It takes
            up to a tenth of a second.
    """

    def __init__(self, cause: Callable[[], RequestError | None]) -> None:
        super().__init__("the model failed on this request; the log says why")
        self.cause = cause


class Answers:
    """The answers to one request, whoever carries them.

    The caller submits the first context, and the others once the first answer has a
    token: the caches have the prompt and its images then, and none is computed twice.

    Args:
        prepared: The request.
        tokenizer: The model's tokenizer.
        started: Time of the request, by the clock of :meth:`receive`.
    """

    def __init__(
        self, prepared: PreparedRequest, tokenizer: Any, started: float
    ) -> None:
        self._prepared = prepared
        self._answers = [
            _Answer(choice, prepared, tokenizer.delegate, started)
            for choice in range(prepared.request.choices)
        ]
        self._is_read = False

    def receive(self, choice: int, outputs: Sequence[Any], at: float) -> list[Event]:
        """Returns the events that reports of the scheduler make.

        Args:
            choice: The answer that they are about.
            outputs: MAX's ``TextGenerationOutput`` of one or several steps.
            at: The time of the last report in seconds.

        Raises:
            AnswerFailedError: If the model failed on the request.
        """
        status = outputs[-1].final_status
        tokens = [token for output in outputs for token in output.tokens]
        # runtime/fault_isolation.py gives this status to a request that failed.
        if status.value == "cancelled":
            raise AnswerFailedError(partial(self._cause, choice, tokens))
        logprobs = [
            each
            for output in outputs
            for entry in output.log_probabilities or ()
            for each in token_logprobs(entry)
        ]
        # Those of the prompt come first, with the first token of the answer.
        asked = self._prepared.request.sampling.logprobs is not None
        of_prompt = max(0, len(logprobs) - len(tokens) * asked)
        answer = self._answers[choice]
        events: list[Event] = []
        if not self._is_read and (tokens or status.is_done):
            self._is_read = True
            events.append(self._prompt_read(outputs[0], logprobs[:of_prompt]))
        if not answer.is_finished:
            events += answer.receive(tokens, status, logprobs[of_prompt:], at)
        return events

    def _cause(self, choice: int, tokens: Sequence[int]) -> RequestError | None:
        why = self._prepared.format_failure
        reason = why and why([*self._answers[choice].token_ids, *tokens])
        if not reason:
            return None
        asked = answer_format(self._prepared.request)
        path = "tools" if asked is None else asked.path
        return RequestError(
            f"{path} exceeds a limit after a part of the answer: {reason}", path
        )

    def is_finished(self, choice: int) -> bool:
        """Returns True if an answer is complete; more tokens of it are not needed."""
        return self._answers[choice].is_finished

    @property
    def are_finished(self) -> bool:
        """Returns True if all answers are complete."""
        return all(answer.is_finished for answer in self._answers)

    def _prompt_read(self, output: Any, logprobs: Sequence[TokenLogprob]) -> PromptRead:
        top = self._prepared.request.sampling.prompt_logprobs
        found = iter(logprobs)
        return PromptRead(
            token_ids=self._prepared.token_ids,
            image_tokens=self._prepared.image_tokens,
            cached_tokens=output.num_cached_tokens or 0,
            logprobs=None
            if top is None
            else [
                None
                if position == 0 or position in self._prepared.image_positions
                else likeliest(next(found), top)
                for position in range(len(self._prepared.token_ids))
            ],
        )


class _Answer:
    """One answer while it is generated."""

    def __init__(
        self, choice: int, prepared: PreparedRequest, tokenizer: Any, started: float
    ) -> None:
        self._choice = choice
        self._sampling = prepared.request.sampling
        self._detokenizer = StreamingDetokenizer(tokenizer, self._sampling.stop_strings)
        self._calls = (prepared.tool_use or _NO_TOOLS).parser(choice)
        self._started = started
        self._first_at: float | None = None
        self._tokens = 0
        self._keeps_tokens = prepared.format_failure is not None
        self.token_ids: list[int] = []
        self.is_finished = False

    def receive(
        self,
        tokens: Sequence[int],
        status: Any,
        logprobs: Sequence[TokenLogprob],
        at: float,
    ) -> list[Event]:
        """Returns the events of new tokens.

        Args:
            tokens: The tokens.
            status: MAX's ``GenerationStatus`` after them.
            logprobs: One for each of the tokens, or none.
            at: The time.
        """
        reason: FinishReason | None = None
        stop: str | int | None = None
        if status.is_done:
            reason = "length" if status.value == "maximum_length" else "stop"
        if self._sampling.max_new_tokens == 0:
            tokens, reason = (), reason and "length"
        if reason == "stop" and tokens and tokens[-1] in self._sampling.stop_token_ids:
            stop = tokens[-1]
        parts, kept = self._read(tokens, without_last=stop is not None)
        if reason is not None and not self._is_ended:
            parts += self._calls.push(self._detokenizer.finish())
        if self._is_ended:
            reason, stop = "stop", self._detokenizer.stop
        if reason is not None:
            parts += self._calls.finish(is_cut=reason == "length")
            reason = self._calls.finish_reason(reason)
        self._tokens += kept
        if self._keeps_tokens:
            self.token_ids += tokens[:kept]
        if kept and self._first_at is None:
            self._first_at = at
        events: list[Event] = []
        if kept or parts:
            top = self._sampling.logprobs
            found = () if top is None else logprobs[:kept]
            entries = [likeliest(each, top or 0) for each in found]
            events += events_of(parts, self._choice, tokens[:kept], entries)
        if reason is not None:
            self.is_finished = True
            first_at = at if self._first_at is None else self._first_at
            timings = Timings(first_at - self._started, at - first_at)
            events.append(Finished(self._choice, reason, stop, self._tokens, timings))
        return events

    @property
    def _is_ended(self) -> bool:
        """Whether a stop string or a call has ended the answer."""
        return self._detokenizer.stop is not None or self._calls.is_finished

    def _read(
        self, tokens: Sequence[int], *, without_last: bool
    ) -> tuple[list[Part], int]:
        """Returns the text and the calls in new tokens, and how many of these belong to
        the answer.

        Args:
            tokens: The tokens.
            without_last: Whether the last one has no text, since it ends the answer.
        """
        end = len(tokens) - without_last
        early = max(0, min(self._sampling.min_tokens - self._tokens - 1, end))
        text = self._detokenizer.push(tokens[:early], may_stop=False)
        if not self._sampling.stop_strings and not self._calls.is_single:
            text += self._detokenizer.push(tokens[early:end])
            return self._calls.push(text), len(tokens)
        parts = self._calls.push(text)
        for index in range(early, end):
            text = self._detokenizer.push(tokens[index : index + 1])
            parts += self._calls.push(text)
            if self._is_ended:
                return parts, index + 1
        return parts, len(tokens)


def events_of(
    parts: Sequence[Part],
    choice: int,
    tokens: Sequence[int],
    logprobs: Sequence[TokenLogprob],
) -> Iterator[Event]:
    """Yields the events of a piece of an answer.  The first one has the tokens.

    Args:
        parts: Text, and events of calls.
        choice: The answer.
        tokens: The tokens of which the parts are.
        logprobs: One for each of these tokens, or none.
    """
    rest: list[Part] = []
    for part in parts:
        add_part(rest, part)
    text = rest.pop(0) if rest and isinstance(rest[0], str) else ""
    yield Piece(choice, str(text), tokens, logprobs)
    for part in rest:
        yield Piece(choice, part, ()) if isinstance(part, str) else part


def token_logprobs(entry: Any) -> list[TokenLogprob]:
    """Returns the log probabilities of tokens in MAX's ``LogProbabilities``."""
    return [
        TokenLogprob(token, logprob, top)
        for token, logprob, top in zip(
            entry.sampled_token_ids,
            entry.token_log_probabilities,
            entry.top_log_probabilities,
            strict=True,
        )
    ]


def likeliest(logprob: TokenLogprob, count: int) -> TokenLogprob:
    """Returns a log probability with the likeliest tokens in order, so many of them.

    Args:
        logprob: The log probability.
        count: The number of tokens, or ``ALL``.
    """
    ordered = sorted(logprob.top.items(), key=lambda item: -item[1])
    kept = ordered if count == ALL else ordered[:count]
    return TokenLogprob(logprob.token_id, logprob.logprob, dict(kept))
