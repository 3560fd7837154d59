"""Events of verdicts to the answer of ``/v1/moderations``."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Any

from mllama.requests.events import Event, Finished, Piece, TokenLogprob
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.dialects.openai.moderations.answers import InputType
from mllama.server.dialects.openai.moderations.hazards import CATEGORIES
from mllama.server.dialects.openai.moderations.verdict import Verdict, VerdictReader
from mllama.server.usage import UsageCounter


@dataclass(frozen=True)
class ModerationForm:
    """What an answer contains, beside the events.

    Attributes:
        model: The served model's name.
        reader: Reads verdicts.
        input_types: The kinds of input that each request has.
    """

    model: str
    reader: VerdictReader
    input_types: Sequence[Sequence[InputType]]


async def whole_moderation(
    events: AsyncIterable[tuple[int, Event]], form: ModerationForm, usage: UsageCounter
) -> dict[str, Any]:
    """Returns the answer to a request.

    Args:
        events: The engine's events, with the number of the input.
        form: What the answer contains.
        usage: Counts the tokens.

    Raises:
        RequestRejected: If an input leaves no room for its verdict.
    """
    tokens: list[list[TokenLogprob]] = [[] for _ in form.input_types]
    verdicts: list[Verdict | None] = [None] * len(tokens)
    async for number, event in events:
        usage.add(event, number)
        if isinstance(event, Piece):
            tokens[number] += event.logprobs
        elif isinstance(event, Finished):
            if event.reason == "length":
                raise RequestRejected(
                    "The input leaves no room for the verdict in the model's context.",
                    "input",
                    code="context_length_exceeded",
                )
            # One by one: a thousand of them would hold the event loop.
            verdicts[number] = form.reader.read(tokens[number])
            tokens[number] = []
    return {
        "id": f"modr-{secrets.token_hex(16)}",
        "model": form.model,
        "results": [
            _result(verdict, types)
            for verdict, types in zip(verdicts, form.input_types, strict=True)
            if verdict is not None
        ],
    }


def _result(verdict: Verdict, input_types: Sequence[InputType]) -> dict[str, Any]:
    """Returns the result of one input."""
    hazards, scores = verdict.hazards, verdict.scores
    return {
        "flagged": verdict.is_unsafe,
        "categories": {
            name: category.holds(hazards) for name, category in CATEGORIES.items()
        },
        "category_scores": {
            name: category.score(scores) for name, category in CATEGORIES.items()
        },
        "category_applied_input_types": {
            name: [
                each
                for each in input_types
                if category.any_of and (each == "text" or category.takes_images)
            ]
            for name, category in CATEGORIES.items()
        },
        "llama_guard": {
            "unsafe_score": verdict.unsafe,
            "categories": hazards,
            "category_scores": scores,
        },
    }
