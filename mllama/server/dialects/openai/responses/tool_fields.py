"""Functions that a request offers to the model, in the flat form of this API."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from mllama.errors import quoted
from mllama.server.bodies.schema import (
    REFUSED,
    Body,
    Ignored,
    Many,
    Refused,
    tag_of_choice,
)

_NO_PROGRAMS: Final = "is not supported: only the client calls functions"


def _is_function(value: Any) -> Any:
    """Refuses a tool that the service would have to run."""
    if value != "function":
        message = (
            f"must be 'function', not {quoted(value)}: the server runs no tools of "
            "its own"
        )
        raise PydanticCustomError(REFUSED, "{message}", {"message": message})
    return value


class ResponseTool(Body):
    """A function that the model may call."""

    type: Annotated[Literal["function"], BeforeValidator(_is_function)]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="The arguments, as a JSON schema"
    )
    strict: bool | None = Field(
        None, description="Whether the arguments of all calls must fit the schema"
    )
    output_schema: Annotated[
        dict[str, Any] | None, Ignored("results come from the client as they are")
    ] = None
    async_: Annotated[bool | None, Refused(_NO_PROGRAMS, [False])] = Field(
        None, alias="async"
    )
    defer_loading: Annotated[
        bool | None,
        Refused("is not supported: the prompt describes every tool", [False]),
    ] = None
    allowed_callers: Annotated[
        Many[str] | None, Refused(_NO_PROGRAMS, [["direct"]])
    ] = None


class ChosenFunction(Body):
    """One of the request's functions."""

    type: Literal["function"]
    name: str


class AllowedFunctions(Body):
    """Some of the request's functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[Many[ChosenFunction], Field(min_length=1)]


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<text>")]
    | Annotated[ChosenFunction, Tag("<function>")]
    | Annotated[AllowedFunctions, Tag("<allowed_tools>")],
    Discriminator(
        tag_of_choice,
        custom_error_type="tool_choice",
        custom_error_message=(
            'must be "none", "auto", "required", or an object of the type function '
            "or allowed_tools"
        ),
    ),
]
"""Whether the answer may or must call functions, and which."""


def nested_tools(tools: list[ResponseTool] | None) -> list[dict[str, Any]]:
    """Returns functions in the form of ``ChatPrompt``."""
    names = {"name", "description", "parameters", "strict"}
    return [
        {
            "type": "function",
            "function": tool.model_dump(include=names, exclude_unset=True),
        }
        for tool in tools or ()
    ]


def nested_choice(choice: str | ChosenFunction | AllowedFunctions | None) -> Any:
    """Returns a choice in the form of ``ChatPrompt``."""
    if isinstance(choice, AllowedFunctions):
        named = [nested_choice(each) for each in choice.tools]
        allowed = {"mode": choice.mode, "tools": named}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    if isinstance(choice, ChosenFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return choice
