"""Messages of Ollama's chats, and the tools that they may call."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mllama.server.bodies.schema import Body, Bookkeeping, Ignored, Many


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Role = Annotated[
    Literal["system", "user", "assistant", "tool"], BeforeValidator(_lowered)
]


class OllamaCalledFunction(Body):
    """A function and the arguments with which the model called it."""

    name: str
    arguments: dict[str, Any] | None = Field(None, description="An object")
    index: Bookkeeping[int | None] = None


class OllamaToolCall(Body):
    """A call of a tool in an earlier answer."""

    function: OllamaCalledFunction
    id: str | None = Field(None, description="Tells calls apart where results name it")
    type: Literal["function"] | None = Field(None, description="The only kind")
    index: Bookkeeping[int | None] = None


class OllamaMessage(Body):
    """A message of a conversation."""

    role: Role
    content: str | None = Field(
        None, description="Each `[img]` in it is the place of an image"
    )
    images: Many[str] | None = Field(
        None,
        description="Base64, or URLs, of the user's images; those without a place "
        "stand before the text",
    )
    tool_calls: Many[OllamaToolCall] | None = Field(
        None, description="The assistant's calls"
    )
    tool_name: str | None = Field(
        None, description="In a result: the tool. Without it the next call's"
    )
    tool_call_id: str | None = Field(
        None, description="In a result: the call, if calls have ids"
    )
    name: str | None = Field(
        None, description="In a result another name of `tool_name`"
    )
    thinking: Annotated[
        str | None, Ignored("this model doesn't think, and isn't shown thoughts")
    ] = None


class OllamaFunction(Body):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="The arguments, as a JSON schema"
    )
    strict: bool | None = Field(
        None, description="Whether the arguments of all calls must fit the schema"
    )


class OllamaTool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"] = "function"
    function: OllamaFunction
    items: Bookkeeping[Any] = None
