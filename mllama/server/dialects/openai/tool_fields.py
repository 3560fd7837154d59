"""Tools that a request offers to the model, and the choice among them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mllama.server.bodies.schema import Body, Many, tag_of_choice


class FunctionDefinition(Body):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="The arguments, as a JSON schema"
    )
    strict: bool | None = Field(
        None, description="Whether the arguments of all calls must fit the schema"
    )


class Tool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class ToolName(Body):
    """The name of one of the request's tools."""

    name: str


class NamedToolChoice(Body):
    """A call of one tool."""

    type: Literal["function"]
    function: ToolName


class AllowedTools(Body):
    """Some of the request's tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[Many[Tool], Field(min_length=1)]


class AllowedToolsChoice(Body):
    """Calls of some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")]
    | Annotated[NamedToolChoice, Tag("<function>")]
    | Annotated[AllowedToolsChoice, Tag("<allowed_tools>")],
    Discriminator(
        tag_of_choice,
        custom_error_type="tool_choice",
        custom_error_message=(
            'must be "none", "auto", "required", or an object of the type function '
            "or allowed_tools"
        ),
    ),
]
"""Whether the answer may or must call tools, and which."""
