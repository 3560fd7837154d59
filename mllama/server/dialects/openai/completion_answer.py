"""Events to the answers of a completion, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mllama.requests.events import Event, Finished, Piece, PromptRead, TokenLogprob
from mllama.server.compact_json import compact
from mllama.server.dialects.log_probability_budget import LogProbabilityBudget
from mllama.server.dialects.openai.answer_head import (
    AnswerHead,
    ChunkWriter,
    usage_object,
)
from mllama.server.json_response import json_text
from mllama.server.token_text import (
    FEW_TOKENS,
    CompletionLogprobsWriter,
    TokenBytes,
    limited,
    prompt_entries,
)
from mllama.server.turns import in_turns
from mllama.server.usage import UsageCounter

NumberedEvents = AsyncIterable[tuple[int, Event]]
"""Events, each with the number of its prompt."""


@dataclass(frozen=True, kw_only=True)
class CompletionForm:
    """What a completion's answer contains, beside the events.

    Attributes:
        head: The answer's head.
        token_bytes: Returns what a token stands for.
        is_special: Returns True for a token that texts of answers leave out.
        prompts: The texts that answers repeat, one for each prompt; empty ones if
            nothing is repeated.
        echo: Whether answers repeat their prompt.
        answers: Number of answers to a prompt that the engine makes.
        choices: Number of them that are returned, the likeliest ones.
        logprobs: Number of likeliest tokens that each token comes with; None if the
            answer has no log probabilities.
        prompt_logprobs: As ``logprobs``, for the field ``prompt_logprobs``.
        include_usage: Whether a stream ends with the usage.
        continuous_usage: Whether each of its chunks has the usage so far.
    """

    head: AnswerHead
    token_bytes: TokenBytes
    is_special: Callable[[int], bool]
    prompts: Sequence[str]
    echo: bool = False
    answers: int = 1
    choices: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    include_usage: bool = False
    continuous_usage: bool = False

    def logprobs_writer(self) -> CompletionLogprobsWriter:
        """Returns a writer of the log probabilities of one answer."""
        return CompletionLogprobsWriter(self.token_bytes, self.is_special)

    @property
    def prompt_copies(self) -> int:
        """Returns how often a whole answer has a prompt's log probabilities."""
        echoes = self.echo and self.logprobs is not None
        return self.choices * (echoes + (self.prompt_logprobs is not None))

    def limited(
        self, tokens: Sequence[TokenLogprob | None]
    ) -> list[TokenLogprob | None]:
        """Returns log probabilities of so many likeliest tokens as were asked for."""
        return limited(tokens, self.logprobs or 0)


@dataclass
class _Answer:
    """An answer to one prompt, as far as it is known."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str = "stop"

    @property
    def mean_logprob(self) -> float:
        """Returns the mean log probability of its tokens."""
        if not self.logprobs:
            return 0.0
        return sum(each.logprob for each in self.logprobs) / len(self.logprobs)


async def whole_completion(
    events: NumberedEvents, form: CompletionForm, usage: UsageCounter
) -> dict[str, Any]:
    """Returns the answers to all prompts.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.

    Raises:
        RequestRejected: If there are too many log probabilities.
    """
    budget = LogProbabilityBudget()
    answers = [[_Answer() for _ in range(form.answers)] for _ in form.prompts]
    read: list[PromptRead | None] = [None for _ in form.prompts]
    async for prompt, event in events:
        usage.add(event, prompt)
        if isinstance(event, PromptRead):
            budget.spend(event.logprobs or (), form.prompt_copies)
            read[prompt] = event
        elif isinstance(event, Piece):
            answer = answers[prompt][event.choice]
            answer.text.append(event.text)
            answer.token_ids += event.token_ids
            budget.spend(event.logprobs)
            answer.logprobs += event.logprobs
        elif isinstance(event, Finished):
            answers[prompt][event.choice].reason = event.reason
    return {
        **form.head.fields("text_completion"),
        "choices": await in_turns(_whole_choices(form, answers, read)),
        "usage": usage_object(usage),
    }


def _whole_choices(
    form: CompletionForm,
    answers: Sequence[list[_Answer]],
    read: list[PromptRead | None],
) -> Generator[None, None, list[dict[str, Any]]]:
    """Returns the choices of an answer, and yields in between.

    What has been written is dropped.
    """
    choices: list[dict[str, Any]] = []
    for prompt, found in enumerate(answers):
        if form.choices < form.answers:
            found.sort(key=lambda answer: answer.mean_logprob, reverse=True)
        for answer in found[: form.choices]:
            choice = yield from _whole_choice(
                form, form.prompts[prompt], answer, read[prompt]
            )
            choices.append({"index": len(choices), **choice})
        found.clear()
        read[prompt] = None
    return choices


def _whole_choice(
    form: CompletionForm, prompt: str, answer: _Answer, read: PromptRead | None
) -> Generator[None, None, dict[str, Any]]:
    logprobs = None
    if form.logprobs is not None:
        writer = form.logprobs_writer()
        logprobs = yield from _echoed_logprobs(form, prompt, read, writer, as_json=True)
        new = yield from _written(
            writer, answer.token_ids, form.limited(answer.logprobs), as_json=True
        )
        for name, values in new.items():
            logprobs[name] += values
    choice: dict[str, Any] = {
        "text": prompt + "".join(answer.text),
        "logprobs": logprobs,
        "finish_reason": answer.reason,
    }
    if form.prompt_logprobs is not None and read is not None:
        tokens = limited(read.logprobs or (), form.prompt_logprobs)
        choice["prompt_logprobs"] = yield from prompt_entries(tokens, form.token_bytes)
    return choice


def _echoed_logprobs(
    form: CompletionForm,
    prompt: str,
    read: PromptRead | None,
    writer: CompletionLogprobsWriter,
    *,
    as_json: bool = False,
) -> Generator[None, None, dict[str, list[Any]]]:
    """Returns the log probabilities of a prompt that the answer repeats, or none."""
    if not form.echo or read is None:
        return writer.write((), ())
    tokens = form.limited(read.logprobs or [None] * len(read.token_ids))
    return (
        yield from _written(writer, read.token_ids, tokens, prompt, as_json=as_json)
    )


def _written(
    writer: CompletionLogprobsWriter,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprob | None],
    prompt: str = "",
    *,
    as_json: bool = False,
) -> Generator[None, None, dict[str, list[Any]]]:
    """Returns the entries of a text's tokens, and yields in between.

    Args:
        writer: Writes them.
        token_ids: The tokens.
        logprobs: Their log probabilities.
        prompt: The text, if it is a prompt's.
        as_json: Whether alternatives are JSON already, which takes less memory.
    """
    entries = writer.write((), ())
    for start in range(0, len(token_ids), FEW_TOKENS):
        if start:
            yield
        few = slice(start, start + FEW_TOKENS)
        written = writer.write(token_ids[few], logprobs[few], prompt)
        if as_json:
            written["top_logprobs"] = list(map(json_text, written["top_logprobs"]))
        for name, values in written.items():
            entries[name] += values
    return entries


async def completion_chunks(
    events: NumberedEvents, form: CompletionForm, usage: UsageCounter
) -> AsyncGenerator[bytes, None]:
    """Yields the server-sent events of a completion's answers.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.
    """
    writer = ChunkWriter(
        form.head,
        "text_completion",
        usage if form.include_usage else None,
        form.continuous_usage,
    )
    writers = [
        form.logprobs_writer() for _ in form.prompts for _ in range(form.choices)
    ]
    async for prompt, event in events:
        usage.add(event, prompt)
        first = prompt * form.choices
        if isinstance(event, Piece):
            index = first + event.choice
            logprobs = "null"
            if form.logprobs is not None and event.logprobs:
                tokens = form.limited(event.logprobs)
                logprobs = compact(writers[index].write(event.token_ids, tokens))
            elif not event.text:
                continue
            yield writer.chunk(_chunk_choice(index, event.text, logprobs))
        elif isinstance(event, Finished):
            last = _chunk_choice(first + event.choice, "", reason=f'"{event.reason}"')
            yield writer.chunk(last)
        elif isinstance(event, PromptRead) and form.echo:
            text = form.prompts[prompt]
            for index in range(first, first + form.choices):
                logprobs = "null"
                if form.logprobs is not None:
                    echoed = _echoed_logprobs(form, text, event, writers[index])
                    logprobs = compact(await in_turns(echoed))
                yield writer.chunk(_chunk_choice(index, text, logprobs))
    yield writer.end()


def _chunk_choice(
    index: int, text: str, logprobs: str = "null", reason: str = "null"
) -> str:
    """Returns the JSON of a chunk's choice."""
    return (
        f'{{"index":{index},"text":{compact(text)},"logprobs":{logprobs},'
        f'"finish_reason":{reason}}}'
    )
