"""Tools that a request offers to the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mllama.server.dialects.openai.schema import Body, Refused


class FunctionDefinition(Body):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="The arguments, as a JSON schema"
    )
    strict: Annotated[
        bool | None,
        Refused("is not supported: nothing forces the arguments to fit", [False]),
    ] = None


class Tool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition
