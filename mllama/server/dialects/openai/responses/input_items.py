"""Items of a response's input: messages, calls of functions, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from mllama.server.bodies.schema import (
    Body,
    Bookkeeping,
    Ignored,
    Many,
    Refused,
    text_or,
)
from mllama.server.dialects.openai.responses.content import (
    InputContent,
    OutputContent,
    ResultContent,
    TextContent,
)

Status = Literal["in_progress", "completed", "incomplete"]

_PHASE: Final = Ignored("the prompt has no place for it")
_LEFT_OUT: Final = Ignored("the prompt leaves the item out")
_REFERENCE: Final = Refused(
    "refers to an item of an earlier response, and the server keeps none: send the "
    "item itself"
)


class InputSystemMessage(Body):
    """Instructions; ``developer`` is OpenAI's newer name of the role."""

    role: Literal["system", "developer"]
    content: TextContent
    type: Literal["message"] | None = None
    id: Bookkeeping[str | None] = None
    status: Bookkeeping[Status | None] = None
    phase: Annotated[str | None, _PHASE] = None


class InputUserMessage(Body):
    """A turn of the user."""

    role: Literal["user"]
    content: InputContent
    type: Literal["message"] | None = None
    id: Bookkeeping[str | None] = None
    status: Bookkeeping[Status | None] = None
    phase: Annotated[str | None, _PHASE] = None


class InputAssistantMessage(Body):
    """A message of an earlier answer, in the form in which the server gave it."""

    role: Literal["assistant"]
    content: OutputContent
    type: Literal["message"] | None = None
    id: Bookkeeping[str | None] = None
    status: Status | None = Field(
        None,
        description="The answer goes on with the last item if it is a message that is "
        "`incomplete` or `in_progress`",
    )
    phase: Annotated[str | None, _PHASE] = None


class InputFunctionCall(Body):
    """A call of a function in an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = Field(description="A JSON object")
    id: Bookkeeping[str | None] = None
    status: Bookkeeping[Status | None] = None
    parsed_arguments: Annotated[
        Any, Ignored("OpenAI's SDK puts the parsed JSON here")
    ] = None


class InputFunctionResult(Body):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str = Field(description="That of a call before it")
    output: ResultContent
    id: Bookkeeping[str | None] = None
    status: Bookkeeping[Status | None] = None
    name: Annotated[str | None, Ignored("the call has it")] = None


class InputReasoning(Body):
    """What another model thought before an answer."""

    type: Literal["reasoning"]
    summary: Annotated[Many[Any] | None, _LEFT_OUT] = None
    content: Annotated[Many[Any] | None, _LEFT_OUT] = None
    encrypted_content: Annotated[str | None, _LEFT_OUT] = None
    id: Bookkeeping[str | None] = None
    status: Bookkeeping[Status | None] = None


_MESSAGES: Final = {
    "system": "<system>",
    "developer": "<system>",
    "user": "<user>",
    "assistant": "<assistant>",
}


def _tag_of_item(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return None
    kind, role = item.get("type"), item.get("role")
    if kind is None and role is None and "id" in item:
        return "<item_reference>"
    if kind in (None, "message"):
        return _MESSAGES.get(role) if isinstance(role, str) else None
    return f"<{kind}>" if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[InputSystemMessage, Tag("<system>")]
    | Annotated[InputUserMessage, Tag("<user>")]
    | Annotated[InputAssistantMessage, Tag("<assistant>")]
    | Annotated[InputFunctionCall, Tag("<function_call>")]
    | Annotated[InputFunctionResult, Tag("<function_call_output>")]
    | Annotated[InputReasoning, Tag("<reasoning>")]
    | Annotated[Any, _REFERENCE, Tag("<item_reference>")],
    Discriminator(
        _tag_of_item,
        custom_error_type="item",
        custom_error_message=(
            "must be a message whose `role` is system, developer, user or assistant, "
            "or an item of type function_call, function_call_output or reasoning"
        ),
    ),
]
"""An item of the input."""

Input = Annotated[
    Annotated[str, Field(min_length=1), Tag("<text>")]
    | Annotated[Many[InputItem], Field(min_length=1), Tag("<items>")],
    text_or("<items>", list, "a string or a list of items"),
]
"""A text of the user, or a conversation."""
