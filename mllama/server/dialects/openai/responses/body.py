"""The body of ``POST /v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from mllama.requests.sampling_params import MAX_LOGPROBS
from mllama.server.bodies.schema import (
    Body,
    Bookkeeping,
    Ignored,
    Many,
    Refused,
    Tools,
)
from mllama.server.dialects.openai.responses.input_items import Input
from mllama.server.dialects.openai.responses.text_fields import ResponseTextConfig
from mllama.server.dialects.openai.responses.tool_fields import (
    ResponseTool,
    ResponseToolChoice,
)
from mllama.server.dialects.openai.sampling_fields import (
    MAX_INTEGER,
    SamplingFields,
)

LOGPROBS: Final = "message.output_text.logprobs"
"""The value of ``include`` that asks for log probabilities."""

_STATELESS: Final = (
    "is not supported: the server keeps no responses; send the items of the whole "
    "conversation as `input`"
)
_ECHOED: Final = "The answer repeats it"
_MAX_ECHOED_CHARACTERS: Final = 512
"""Of a text that each answer, and three events of each stream, repeat.  OpenAI's API
has this limit for the values of ``metadata``."""

_ALWAYS_CACHED: Final = Ignored("prefixes are always cached")
_NO_SUMMARY: Final = Ignored("there is no reasoning to sum up")

Includable = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""What OpenAI's API can add to answers."""


EchoedText = Annotated[str, Field(max_length=_MAX_ECHOED_CHARACTERS)]

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], EchoedText], Field(max_length=16)
]
"""With the limits of OpenAI's API."""


class ResponseStreamOptions(Body):
    """What a stream has beside the answer."""

    include_obfuscation: Annotated[bool | None, Ignored("events are never padded")] = (
        None
    )


class ResponseReasoning(Body):
    """How a model that reasons does so, which this one doesn't."""

    effort: Annotated[
        str | None,
        Refused(
            "is not supported: this model doesn't reason before it answers",
            ["none", "medium"],
        ),
    ] = None
    summary: Annotated[str | None, _NO_SUMMARY] = None
    generate_summary: Annotated[str | None, _NO_SUMMARY] = None
    context: Annotated[str | None, Ignored("there is no reasoning to keep")] = None


class ResponsesBody(SamplingFields):
    """A request for the next items of a conversation."""

    input: Input = Field(description="A text, or the items of a conversation")
    model: str | None = Field(None, description="One of the served model's names")
    instructions: str | None = Field(
        None, description="A system message before the input"
    )
    stream: bool | None = Field(None, description="Whether events are sent")
    stream_options: ResponseStreamOptions | None = Field(
        None, description="Only with `stream`"
    )
    max_output_tokens: int | None = Field(
        None, ge=1, le=MAX_INTEGER, description="The longest answer in tokens"
    )
    text: ResponseTextConfig | None = Field(None, description="The answer's format")
    tools: Tools[ResponseTool] | None = Field(
        None, description="Functions, described to the model"
    )
    tool_choice: ResponseToolChoice | None = Field(
        None, description="Whether the answer may or must call functions, and which"
    )
    parallel_tool_calls: bool | None = Field(
        None, description="False ends the answer after its first call"
    )
    include: Many[Includable] | None = Field(
        None,
        description=f"`{LOGPROBS}` adds log probabilities; the others are about items "
        "that answers never have",
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description=f"Likeliest tokens in each place; needs `{LOGPROBS}`",
    )
    metadata: Metadata | None = Field(None, description=_ECHOED)
    user: EchoedText | None = Field(None, description=_ECHOED)
    safety_identifier: EchoedText | None = Field(None, description=_ECHOED)
    prompt_cache_key: EchoedText | None = Field(
        None, description=f"{_ECHOED}; prefixes are always cached"
    )
    store: Annotated[
        bool | None, Ignored("nothing is stored, as the answer's `store` says")
    ] = None
    service_tier: Bookkeeping[str | None] = None
    max_tool_calls: Annotated[
        int | None, Ignored("it limits tools that the service runs; there are none")
    ] = None
    reasoning: ResponseReasoning | None = Field(None, description="See below")
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        Refused(
            "is not supported: leave out what doesn't fit the context", ["disabled"]
        ),
    ] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, _ALWAYS_CACHED] = None
    prompt_cache_retention: Annotated[str | None, _ALWAYS_CACHED] = None
    image: Annotated[dict[str, Any] | None, Ignored("images are never compressed")] = (
        None
    )
    previous_response_id: Annotated[str | None, Refused(_STATELESS)] = None
    conversation: Annotated[Any, Refused(_STATELESS)] = None
    background: Annotated[
        bool | None,
        Refused(
            "is not supported: the server keeps no responses; use `stream`", [False]
        ),
    ] = None
    background_options: Annotated[
        Any, Refused("is not supported: nothing runs in the background")
    ] = None
    prompt: Annotated[
        Any,
        Refused("is not supported: the server has no stored prompts; send the text"),
    ] = None
    context_management: Annotated[
        Many[Any] | None,
        Refused("is not supported: the server compacts no conversation", [[]]),
    ] = None
    moderation: Annotated[
        Any, Refused("is not supported: the server moderates no responses")
    ] = None
    access_programs: Annotated[
        Any, Refused("is not supported: it is for OpenAI's own models")
    ] = None

    @property
    def has_logprobs(self) -> bool:
        """Returns True if the answer has log probabilities."""
        return LOGPROBS in (self.include or ())
