"""Messages of a chat and the parts of their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mllama.server.bodies.schema import (
    Body,
    Bookkeeping,
    Ignored,
    Many,
    Refused,
    TextOrParts,
    tag_of_type,
    text_or,
)


class CacheBreakpoint(Body):
    """A hint where a cached prefix ends."""

    mode: Bookkeeping[str | None] = None
    type: Bookkeeping[str | None] = None
    ttl: Bookkeeping[str | None] = None


CacheHint = Annotated[CacheBreakpoint | None, Ignored("prefixes are always cached")]


_Parsed = Annotated[Any, Ignored("OpenAI's SDK puts the parsed JSON here")]


class ImageUrl(Body):
    """Where an image is."""

    url: str = Field(
        description="`http:`, `https:` or `data:` URL, or base64 without a prefix"
    )
    detail: Annotated[
        Literal["auto", "low", "high", "original"] | None,
        Ignored("the model sees every image in the same way"),
    ] = None


ImageSource = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[ImageUrl, Tag("<object>")],
    text_or("<object>", dict, "a URL, or an object with a `url`"),
]
"""A URL, or an object with one."""


class TextPart(Body):
    """A text."""

    type: Literal["text"]
    text: str
    image_url: ImageSource | None = Field(
        None, description="An image that stands before the text"
    )
    prompt_cache_breakpoint: CacheHint = None
    cache_control: CacheHint = None


class ImagePart(Body):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageSource
    prompt_cache_breakpoint: CacheHint = None
    cache_control: CacheHint = None


class PlainTextPart(Body):
    """A text of a message that has no images."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: CacheHint = None
    cache_control: CacheHint = None


class RefusalPart(Body):
    """What the assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


UserPart = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image_url>")],
    Discriminator(
        tag_of_type,
        custom_error_type="part",
        custom_error_message="must be a part of type text or image_url",
    ),
]
AssistantPart = Annotated[
    Annotated[PlainTextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")],
    Discriminator(
        tag_of_type,
        custom_error_type="part",
        custom_error_message="must be a part of type text or refusal",
    ),
]

UserContent = TextOrParts[UserPart]
AssistantContent = TextOrParts[AssistantPart]
TextContent = TextOrParts[PlainTextPart]


class SystemMessage(Body):
    """Instructions; ``developer`` is OpenAI's newer name of the role."""

    role: Literal["system", "developer"]
    content: TextContent
    name: str | None = Field(None, description="For templates that read it")


class UserMessage(Body):
    """A turn of the user."""

    role: Literal["user"]
    content: UserContent
    images: Many[str] | None = Field(
        None, description="Ollama's form: base64, or URLs, of images before the text"
    )
    name: str | None = Field(None, description="For templates that read it")


class CalledFunction(Body):
    """A function and the arguments with which the model called it."""

    name: str
    arguments: str = Field(description="A JSON object")
    parsed_arguments: _Parsed = None


class ToolCall(Body):
    """A call of a tool in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Bookkeeping[int | None] = None


class AssistantMessage(Body):
    """An earlier answer, in the form in which the server gave it."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = Field(None, description="Read as the content, without one")
    tool_calls: Many[ToolCall] | None = None
    name: str | None = Field(None, description="For templates that read it")
    annotations: Annotated[Many[Any] | None, Ignored("the text has them")] = None
    parsed: _Parsed = None
    audio: Annotated[Any, Refused("is not supported: the model can't hear")] = None
    function_call: Annotated[
        Any, Refused("is not supported: use `tool_calls`, its successor")
    ] = None


class ToolMessage(Body):
    """The result of a tool."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: str
    name: str | None = Field(None, description="For templates that read it")


_TAGS = {
    "system": "<system>",
    "developer": "<system>",
    "user": "<user>",
    "assistant": "<assistant>",
    "tool": "<tool>",
}


def _tag_of_message(message: Any) -> str | None:
    role = message.get("role") if isinstance(message, Mapping) else None
    return _TAGS.get(role) if isinstance(role, str) else None


Message = Annotated[
    Annotated[SystemMessage, Tag("<system>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[ToolMessage, Tag("<tool>")],
    Discriminator(
        _tag_of_message,
        custom_error_type="message",
        custom_error_message=(
            "must be an object whose `role` is system, developer, user, assistant "
            "or tool"
        ),
    ),
]
"""A message of a conversation."""
