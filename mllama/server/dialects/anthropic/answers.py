"""What the server answers, as models: the schema of ``/openapi.json``, and tests.

Routes write answers of these forms as dictionaries, and the events of a stream as text,
because a model for every token would cost more than the rest of an event.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Answer(BaseModel):
    """An object of an answer's JSON."""

    model_config = ConfigDict(extra="forbid")


class MessageUsage(_Answer):
    """The tokens of a request."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageText(_Answer):
    """A text."""

    type: Literal["text"]
    text: str


class MessageToolUse(_Answer):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


MessageBlock = Annotated[MessageText | MessageToolUse, Field(discriminator="type")]

StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "model_context_window_exceeded",
]


class Message(_Answer):
    """The model's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[MessageBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(_Answer):
    """The number of a prompt's tokens."""

    input_tokens: int


class MessageStart(_Answer):
    """The beginning of a message, without content."""

    type: Literal["message_start"]
    message: Message


class BlockStart(_Answer):
    """The beginning of a block, which is empty."""

    type: Literal["content_block_start"]
    index: int
    content_block: MessageBlock


class BlockTextDelta(_Answer):
    """A piece of text."""

    type: Literal["text_delta"]
    text: str


class BlockInputDelta(_Answer):
    """A piece of the JSON of a call's input."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(_Answer):
    """A piece of a block."""

    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[BlockTextDelta | BlockInputDelta, Field(discriminator="type")]


class BlockStop(_Answer):
    """The end of a block."""

    type: Literal["content_block_stop"]
    index: int


class MessageEnd(_Answer):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(_Answer):
    """The end of the content, with the usage of the whole answer."""

    type: Literal["message_delta"]
    delta: MessageEnd
    usage: MessageUsage


class MessageStop(_Answer):
    """The end of the stream."""

    type: Literal["message_stop"]


class Ping(_Answer):
    """A sign of life."""

    type: Literal["ping"]


class MessageErrorDetails(_Answer):
    """What a client can act on."""

    error_code: Literal["thread_unsupported_request"]


class MessageError(_Answer):
    """What is wrong."""

    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "api_error",
    ]
    message: str
    details: MessageErrorDetails | None = None


class MessageErrorAnswer(_Answer):
    """The answer to a request that fails, or the last event of a stream that does."""

    type: Literal["error"]
    error: MessageError
    request_id: str | None


StreamEvent: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        MessageStart
        | BlockStart
        | BlockDelta
        | BlockStop
        | MessageDelta
        | MessageStop
        | Ping
        | MessageErrorAnswer,
        Field(discriminator="type"),
    ]
)
"""An event of a stream."""


class ModelInfo(_Answer):
    """The served model."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int | None
    max_tokens: int | None


class ModelPage(_Answer):
    """All served models."""

    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None
