"""Messages of a conversation, and the blocks that they consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from mllama.server.bodies.schema import (
    REFUSED,
    Body,
    Ignored,
    Many,
    Refused,
    tag_of_type,
    text_or,
)

CacheControl = Annotated[
    dict[str, Any] | None, Ignored("prefixes and images are always cached")
]

_NO_REASONING: Final = Ignored("the model isn't shown earlier reasoning")


class TextBlock(Body):
    """A text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl = None
    citations: Annotated[Many[Any] | None, Ignored("the text has them")] = None


class Base64Source(Body):
    """An image in the request."""

    type: Literal["base64"]
    data: str = Field(description="The image file in base64")
    media_type: Annotated[str | None, Ignored("the file says its format")] = None


class UrlSource(Body):
    """An image elsewhere."""

    type: Literal["url"]
    url: str = Field(description="`http:`, `https:` or `data:` URL")


ImageSource = Annotated[
    Annotated[Base64Source, Tag("<base64>")] | Annotated[UrlSource, Tag("<url>")],
    Discriminator(
        tag_of_type,
        custom_error_type="source",
        custom_error_message=(
            "must be an object of the type base64 or url; the server keeps no files"
        ),
    ),
]


class ImageTransformations(Body):
    """What may be done to an image before the model sees it."""

    oversized_image: Annotated[
        str | None,
        Refused("is not supported: large images are scaled down", ["downsize"]),
    ] = None


class ImageBlock(Body):
    """An image."""

    type: Literal["image"]
    source: ImageSource
    cache_control: CacheControl = None
    transformations: ImageTransformations | None = None


class ToolUseBlock(Body):
    """A call of a tool in an earlier answer."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl = None
    caller: Annotated[
        dict[str, Any] | None,
        Refused("is not supported: only the model calls tools", [{"type": "direct"}]),
    ] = None


class ThinkingBlock(Body):
    """Reasoning of another model."""

    type: Literal["thinking"]
    thinking: Annotated[str, _NO_REASONING]
    signature: Annotated[str | None, _NO_REASONING] = None


class RedactedThinkingBlock(Body):
    """Reasoning of another model that only Anthropic can read."""

    type: Literal["redacted_thinking"]
    data: Annotated[str, _NO_REASONING]


_WAYS_OUT: Final = {
    "document": (
        "the model reads text and images; send the document's text in a text block, or "
        "its pages as images"
    ),
    "search_result": "send its text in a text block",
    "tool_reference": "the server searches no tools; send all of them in `tools`",
}
_NO_TOOLS: Final = "the server runs no tools"


class RefusedBlock(Body):
    """A block that the model can't be shown."""

    type: str

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> Any:
        kind = str(value["type"])
        message = f"is a block of the type {kind[:80]!r}, which is not supported: " + (
            _WAYS_OUT.get(kind, _NO_TOOLS)
        )
        raise PydanticCustomError(REFUSED, "{message}", {"message": message})


_REFUSED: Final = frozenset(
    {
        *_WAYS_OUT,
        "server_tool_use",
        "mcp_tool_use",
        "container_upload",
        "browser_state",
    }
)


def _block_tags(*types: str) -> Callable[[Any], str | None]:
    """Returns how a union of blocks tells them apart.

    Args:
        types: The types that it takes; blocks of other known ones are refused by name.
    """

    def tag(value: Any) -> str | None:
        kind = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(kind, str) or kind in types:
            return tag_of_type(value)
        is_result = kind.endswith("_tool_result")
        return "<refused>" if kind in _REFUSED or is_result else None

    return tag


def _one_of(*types: str) -> Discriminator:
    *others, last = types
    return Discriminator(
        _block_tags(*types),
        custom_error_type="block",
        custom_error_message=f"must be a block of type {', '.join(others)} or {last}",
    )


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[RefusedBlock, Tag("<refused>")],
    _one_of("text", "image"),
]


class ToolResultBlock(Body):
    """The result of a tool."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[Many[ResultBlock], Tag("<blocks>")],
            text_or("<blocks>", list, "a string or a list of blocks"),
        ]
        | None
    ) = Field(None, description="Images are shown after all results of the turn")
    is_error: bool | None = Field(
        None, description="Whether the model sees `Error: ` before the text"
    )
    cache_control: CacheControl = None


UserBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[RefusedBlock, Tag("<refused>")],
    _one_of("text", "image", "tool_result"),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedThinkingBlock, Tag("<redacted_thinking>")]
    | Annotated[RefusedBlock, Tag("<refused>")],
    _one_of("text", "tool_use", "thinking", "redacted_thinking"),
]

Texts = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Many[TextBlock], Tag("<blocks>")],
    text_or("<blocks>", list, "a string or a list of text blocks"),
]
"""A text, or blocks of it."""


class UserTurn(Body):
    """A message of the user."""

    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[Many[UserBlock], Tag("<blocks>")],
        text_or("<blocks>", list, "a string or a list of blocks"),
    ]


class AssistantTurn(Body):
    """An earlier answer, or the beginning of the next one."""

    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("<text>")]
        | Annotated[Many[AssistantBlock], Tag("<blocks>")],
        text_or("<blocks>", list, "a string or a list of blocks"),
    ]


class SystemTurn(Body):
    """Instructions in the middle of a conversation."""

    role: Literal["system"]
    content: Texts


def _tag_of_turn(message: Any) -> str | None:
    role = message.get("role") if isinstance(message, Mapping) else None
    return f"<{role}>" if role in ("user", "assistant", "system") else None


Turn = Annotated[
    Annotated[UserTurn, Tag("<user>")]
    | Annotated[AssistantTurn, Tag("<assistant>")]
    | Annotated[SystemTurn, Tag("<system>")],
    Discriminator(
        _tag_of_turn,
        custom_error_type="turn",
        custom_error_message=(
            "must be an object whose `role` is user, assistant or system"
        ),
    ),
]
"""A message of a conversation."""
