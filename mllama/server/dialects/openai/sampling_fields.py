"""Fields that requests for answers share: how tokens are chosen, and bookkeeping."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mllama.requests.request import MAX_CHOICES
from mllama.requests.sampling_params import MAX_LOGPROBS
from mllama.server.bodies.schema import (
    MAX_TOKEN_IDS,
    Body,
    Bookkeeping,
    Ignored,
    Many,
    Refused,
    Stop,
)
from mllama.server.dialects.openai.format_fields import FormatFields

MAX_INTEGER: Final = 2**31 - 1
"""The largest number of tokens that can be named."""

MAX_STOP_TOKENS: Final = 1024
"""The most tokens that end an answer."""

MAX_BIASES: Final = 2**14
"""The most tokens with a bias."""

TokenId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
TokenIds = Annotated[Many[TokenId], Field(max_length=MAX_TOKEN_IDS)]
Penalty = Annotated[float | None, Field(ge=-2, le=2)]


def _few(value: Any) -> Any:
    """Refuses an object whose entries could be as many errors."""
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise PydanticCustomError(
            "biases", "must have at most {most} tokens", {"most": MAX_BIASES}
        )
    return value


Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_few)
]


class StreamOptions(Body):
    """What a stream has beside the answer."""

    include_usage: bool | None = Field(None, description="A last chunk has the usage")
    continuous_usage_stats: bool | None = Field(
        None, description="With `include_usage`, every chunk has the usage so far"
    )
    include_obfuscation: Annotated[bool | None, Ignored("chunks are never padded")] = (
        None
    )


class SamplingFields(Body):
    """How the tokens of an answer are chosen, and what ends it."""

    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(
        None, ge=-1, le=MAX_INTEGER, description="-1 and 0 are all tokens"
    )
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(
        None, ge=-(2**63), le=2**63 - 1, description="Makes sampling repeatable"
    )
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    repetition_penalty: float | None = Field(
        None, gt=0, description="vLLM's name; 1 is none"
    )
    repeat_penalty: float | None = Field(
        None, gt=0, description="Ollama's name of `repetition_penalty`"
    )
    logit_bias: Biases | None = Field(
        None, description="Added to the logits of tokens, by their ids"
    )
    min_tokens: int | None = Field(
        None, ge=0, le=MAX_INTEGER, description="No stop before so many tokens"
    )
    stop: Stop | None = Field(
        None, description="Texts that end the answer; empty ones don't"
    )
    stop_token_ids: (
        Annotated[Many[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None
    ) = Field(None, description="Tokens that end the answer")
    ignore_eos: bool | None = Field(
        None, description="Whether to go on after the model's own end"
    )


class GenerationFields(SamplingFields, FormatFields):
    """Fields that chats and completions share."""

    model: str | None = Field(None, description="One of the served model's names")
    stream: bool | None = Field(None, description="Whether chunks are sent as events")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Number of choices")
    prompt_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Log probabilities of the prompt's tokens; not in a stream",
    )
    user: Bookkeeping[str | None] = None
    store: Bookkeeping[bool | None] = None
    metadata: Bookkeeping[dict[str, Any] | None] = None
    service_tier: Bookkeeping[str | None] = None
    safety_identifier: Bookkeeping[str | None] = None
    request_id: Bookkeeping[str | None] = None
    prompt_cache_key: Annotated[str | None, Ignored("prefixes are always cached")] = (
        None
    )
    prompt_cache_options: Annotated[
        dict[str, Any] | None, Ignored("prefixes are always cached")
    ] = None
    prompt_cache_retention: Annotated[
        str | None, Ignored("prefixes are always cached")
    ] = None
    keep_alive: Annotated[
        Any, Ignored("Ollama's; the model is loaded as long as the server runs")
    ] = None
    cache_salt: Annotated[
        str | None, Refused("is not supported: all requests share the prefix cache")
    ] = None
    priority: Annotated[
        int | None, Refused("is not supported: requests are served in order", [0])
    ] = None
    options: Annotated[
        dict[str, Any] | None,
        Refused("is not supported: send what is in it as fields of the request"),
    ] = None

    @property
    def includes_usage(self) -> bool:
        """Returns True if a stream ends with the usage."""
        return self.stream_options is not None and bool(
            self.stream_options.include_usage
        )

    @property
    def has_continuous_usage(self) -> bool:
        """Returns True if each chunk of such a stream has the usage so far."""
        return (
            self.stream_options is not None
            and self.includes_usage
            and bool(self.stream_options.continuous_usage_stats)
        )
