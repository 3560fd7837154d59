"""Tools that a request offers to the model, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from mllama.server.bodies.schema import REFUSED, Body, Many, Refused, tag_of_type
from mllama.server.dialects.anthropic.content import CacheControl


class CustomTool(Body):
    """A tool that the client runs."""

    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any] = Field(description="The input, as a JSON schema")
    input_examples: Many[dict[str, Any]] | None = Field(
        None, description="Shown to the model as `examples` of the schema"
    )
    strict: bool | None = Field(
        None, description="Whether the input of all calls must fit the schema"
    )
    eager_input_streaming: bool | None = Field(
        None,
        description="Whether a stream has the input as it is generated, before it is "
        "known to be JSON",
    )
    cache_control: CacheControl = None
    allowed_callers: Annotated[
        Many[str] | None,
        Refused("is not supported: only the model calls tools", [["direct"]]),
    ] = None
    defer_loading: Annotated[
        bool | None,
        Refused("is not supported: the server searches no tools", [False]),
    ] = None


class RefusedTool(Body):
    """A tool of Anthropic's."""

    type: str

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> Any:
        message = (
            f"has the type {str(value['type'])[:80]!r}, which is not supported: the "
            "server runs no tools, and the model knows none of Anthropic's; describe "
            "it by a `name` and an `input_schema`"
        )
        raise PydanticCustomError(REFUSED, "{message}", {"message": message})


def _tag_of_tool(tool: Any) -> str | None:
    if not isinstance(tool, Mapping):
        return None
    is_custom = tool.get("type") in (None, "custom")
    return "<custom>" if is_custom else "<refused>"


AnyTool = Annotated[
    Annotated[CustomTool, Tag("<custom>")] | Annotated[RefusedTool, Tag("<refused>")],
    Discriminator(
        _tag_of_tool,
        custom_error_type="tool",
        custom_error_message="must be an object with a `name` and an `input_schema`",
    ),
]


class NoToolChoice(Body):
    """No call."""

    type: Literal["none"]


class SomeToolChoice(Body):
    """Calls if the model chooses so (``auto``), or in any case (``any``)."""

    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = Field(
        None, description="Whether the answer ends after its first call"
    )


class OneToolChoice(Body):
    """Calls of one tool."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = Field(
        None, description="Whether the answer ends after its first call"
    )


def _tag_of_choice(choice: Any) -> str | None:
    tag = tag_of_type(choice)
    return "<some>" if tag in ("<auto>", "<any>") else tag


AnyToolChoice = Annotated[
    Annotated[NoToolChoice, Tag("<none>")]
    | Annotated[SomeToolChoice, Tag("<some>")]
    | Annotated[OneToolChoice, Tag("<tool>")],
    Discriminator(
        _tag_of_choice,
        custom_error_type="tool_choice",
        custom_error_message="must be an object of the type auto, any, tool or none",
    ),
]
"""Whether the answer may or must call tools, and which."""
