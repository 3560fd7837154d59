"""The body of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, Tag

from mllama.requests.request import MAX_CHOICES
from mllama.requests.sampling_params import MAX_LOGPROBS
from mllama.server.bodies.schema import Many, Refused
from mllama.server.dialects.openai.sampling_fields import (
    MAX_INTEGER,
    GenerationFields,
    TokenIds,
)

MAX_PROMPTS: Final = 2048
"""The most prompts of a request, as in OpenAI's API."""

PromptIds = Annotated[TokenIds, Field(min_length=1)]


def _tag_of(prompt: Any) -> str:
    """Returns the tag of a prompt's form, from its first entry."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, str):
        return "<text>"
    first = prompt[0] if prompt else ""
    if isinstance(first, list):
        return "<lists of ids>"
    return "<texts>" if isinstance(first, str) else "<ids>"


Prompts = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[Many[str], Field(min_length=1, max_length=MAX_PROMPTS), Tag("<texts>")]
    | Annotated[PromptIds, Tag("<ids>")]
    | Annotated[
        Many[PromptIds],
        Field(min_length=1, max_length=MAX_PROMPTS),
        Tag("<lists of ids>"),
    ],
    Discriminator(_tag_of),
]
"""One prompt or several, each a text or the ids of its tokens."""


class CompletionBody(GenerationFields):
    """A request to continue texts."""

    prompt: Prompts = Field(
        description="A text or the ids of its tokens, or a list of either"
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        le=MAX_INTEGER,
        description="The longest answer in tokens; 0 only reads the prompt",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Log probabilities of the tokens, and of so many of the likeliest",
    )
    echo: bool | None = Field(
        None, description="Whether the text begins with the prompt"
    )
    best_of: int | None = Field(
        None,
        ge=1,
        le=MAX_CHOICES,
        description="Answers from which the `n` likeliest are chosen; not in a stream",
    )
    suffix: Annotated[
        str | None,
        Refused("is not supported: the model can't fill in between texts", [""]),
    ] = None
