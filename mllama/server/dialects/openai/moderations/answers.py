"""What ``/v1/moderations`` answers, as models: the API's schema, and tests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mllama.server.dialects.openai.answers import Answer

InputType = Literal["text", "image"]
"""A kind of input that a score applies to."""


class LlamaGuardVerdict(Answer):
    """The verdict by the model's own hazards; not part of OpenAI's form."""

    unsafe_score: float = Field(description="The probability of the verdict `unsafe`")
    categories: dict[str, bool]
    category_scores: dict[str, float]


class ModerationResult(Answer):
    """The verdict about one input, by OpenAI's categories."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[InputType]]
    llama_guard: LlamaGuardVerdict


class Moderation(Answer):
    """The verdicts about all inputs."""

    id: str
    model: str
    results: list[ModerationResult]
