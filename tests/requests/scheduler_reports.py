"""What MAX's scheduler would report about a request, made by tests."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from max.pipelines.context import (
    GenerationStatus,
    LogProbabilities,
    TextGenerationOutput,
)
from max.pipelines.modeling.types import RequestID

from mllama.requests.preparation import PreparedRequest
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from mllama.requests.tool_use import ToolUse
from tests.requests.test_detokenizer import TOKENIZER

ACTIVE = GenerationStatus.ACTIVE
ENDED = GenerationStatus.END_OF_SEQUENCE
FULL = GenerationStatus.MAXIMUM_LENGTH
FAILED = GenerationStatus.CANCELLED

MODEL_TOKENIZER = SimpleNamespace(delegate=TOKENIZER)
"""In place of the model's tokenizer, with a token for each byte."""


def tokens_of(text: str) -> list[int]:
    """Returns the tokens of a text."""
    ids: list[int] = TOKENIZER.backend_tokenizer.encode(text).ids
    return ids


def prepared(
    choices: int = 1, *, tool_use: ToolUse | None = None, **sampling: Any
) -> PreparedRequest:
    """Returns a request with a prompt of 7 text tokens and 100 image tokens."""
    request = GenerationRequest(
        prompt="unused",
        sampling=Sampling(**sampling),
        choices=choices,
    )
    contexts = [
        SimpleNamespace(request_id=RequestID(f"r-{choice}"))
        for choice in range(choices)
    ]
    return PreparedRequest(request, contexts, list(range(7)), 100, [2, 4], tool_use)


def report(
    text: str | Sequence[int],
    status: GenerationStatus = ACTIVE,
    *,
    cached: int | None = None,
    logprobs: Sequence[LogProbabilities] | None = None,
) -> TextGenerationOutput:
    """Returns the report of a step.

    Args:
        text: The step's tokens, or their text.
        status: The request's status after it.
        cached: Tokens of the prompt that the cache had.
        logprobs: Log probabilities.
    """
    return TextGenerationOutput(
        request_id=RequestID("r"),
        tokens=tokens_of(text) if isinstance(text, str) else list(text),
        final_status=status,
        num_cached_tokens=cached,
        log_probabilities=None if logprobs is None else list(logprobs),
    )
