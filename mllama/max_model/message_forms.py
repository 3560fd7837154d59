"""Messages in the forms that chat templates take: strings, lists of parts, or both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mllama.errors import quoted
from mllama.max_model.chat_template import ChatTemplateError

Message = dict[str, Any]
"""A message with ``role``, and ``content`` as a list of parts."""

Form = Callable[[Sequence[Message], str], list[Message]]
"""Returns messages in one form, given the text that stands for an image."""

ROLES: Final = (
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "ipython",
    "function",
)
"""Names that may stand between the header's tokens.  Others are refused: a role is no
text, and a template could make a special token of it."""


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Returns messages whose content is a list of parts.

    Arguments of tool calls that are JSON become the object that they describe, which
    templates write as JSON again.

    Raises:
        ChatTemplateError: If a message is malformed; the error numbers it, from 1.
    """
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise ChatTemplateError("messages must be a list of messages")
    if not messages:
        raise ChatTemplateError("there must be at least one message")
    read = []
    for number, message in enumerate(messages, 1):
        try:
            read.append(_read_message(message))
        except ChatTemplateError as error:
            raise ChatTemplateError(f"message {number}: {error}") from error
    return read


def _read_message(message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise ChatTemplateError('must be an object with "role" and "content"')
    role = message.get("role")
    if role not in ROLES:
        raise ChatTemplateError(
            f"role must be one of {', '.join(ROLES)}, not {quoted(role)}"
        )
    content = message.get("content")
    calls = message.get("tool_calls")
    read = {key: value for key, value in message.items() if value is not None}
    read.pop("tool_calls", None)
    if calls:
        read["tool_calls"] = _read_calls(calls)
    if isinstance(content, str):
        parts: list[Any] = [] if calls and not content else [_text_part(content)]
    elif content is None and calls:
        parts = []
    elif isinstance(content, Sequence) and not isinstance(content, bytes):
        parts = [_read_part(part) for part in content]
    else:
        raise ChatTemplateError("content must be a string or a list of parts")
    return {**read, "content": parts}


def _read_part(part: Any) -> Message:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return {"type": "image"}
    if kind == "text" and isinstance(part.get("text"), str):
        return _text_part(part["text"])
    raise ChatTemplateError(
        'a part must be {"type": "text", "text": ...} or {"type": "image"}, not '
        + quoted(part)
    )


def _read_calls(calls: Any) -> list[Any]:
    if not isinstance(calls, Sequence) or not all(
        isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)
        for call in calls
    ):
        raise ChatTemplateError('tool_calls must be a list of {"function": {...}}')
    return [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": _read_arguments(call["function"].get("arguments"), number),
            },
        }
        for number, call in enumerate(calls, 1)
    ]


def _read_arguments(arguments: Any, number: int) -> Any:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ChatTemplateError(
                f"the arguments of tool call {number} are not JSON: {error}"
            ) from error
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise ChatTemplateError(
            f"the arguments of tool call {number} must be an object, not "
            f"{quoted(arguments)}"
        )
    return dict(arguments)


def _text_part(text: str) -> Message:
    return {"type": "text", "text": text}


def count_images(messages: Sequence[Message]) -> int:
    """Returns the number of images in messages."""
    return sum(
        part["type"] == "image" for message in messages for part in message["content"]
    )


def strings_without_images(
    messages: Sequence[Message], image_token: str
) -> list[Message]:
    """Returns strings for messages of text alone, and parts for those with images.

    Meta's templates take this form: the text of system messages, tool results and the
    first of a request with tools as a string only.
    """
    return [
        message
        if any(part["type"] == "image" for part in message["content"])
        else _as_string(message, image_token)
        for message in messages
    ]


def strings_only(messages: Sequence[Message], image_token: str) -> list[Message]:
    """Returns strings, in which images are written as their token.

    Templates of text models take this form.  So do Meta's for an image beside a system
    message or tools, which they refuse as a part, although the model handles both.
    """
    return [_as_string(message, image_token) for message in messages]


def parts_only(messages: Sequence[Message], image_token: str) -> list[Message]:
    """Returns lists of parts, as Llama Guard's template takes them."""
    return list(messages)


def one_call_a_message(form: Form) -> Form:
    """Returns a form whose messages have a text or one call of a tool, not both.

    Each call is followed by its result.  Meta's templates take a message with several
    calls in no other way, and leave out a text beside a call.
    """

    def split(messages: Sequence[Message], image_token: str) -> list[Message]:
        return form(_split_calls(messages), image_token)

    return split


_PLAIN_FORMS: Final[tuple[Form, ...]] = (
    strings_without_images,
    strings_only,
    parts_only,
)

FORMS: Final[tuple[Form, ...]] = (
    *_PLAIN_FORMS,
    *map(one_call_a_message, _PLAIN_FORMS),
)
"""The forms in the order in which they are tried."""

_RESULT_ROLES: Final = ("tool", "ipython", "function")


def _split_calls(messages: Sequence[Message]) -> list[Message]:
    """Returns messages in which each call is one of its own, before its result."""
    split: list[Message] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        calls = list(message.get("tool_calls", ()))
        if not calls:
            split.append(message)
            continue
        results = []
        while index < len(messages) and messages[index]["role"] in _RESULT_ROLES:
            results.append(messages[index])
            index += 1
        if message["content"]:
            split.append({k: v for k, v in message.items() if k != "tool_calls"})
        for call in calls:
            split.append({**message, "content": [], "tool_calls": [call]})
            if results:
                split.append(results.pop(_result_of(call, results)))
        split += results
    return split


def _result_of(call: Mapping[str, Any], results: Sequence[Message]) -> int:
    """Returns the index of a call's result: that with its id, or else the first one of
    its name, or the first one."""
    identity, name = call.get("id"), call["function"].get("name")
    for key, value in (("tool_call_id", identity), ("name", name)):
        for index, result in enumerate(results):
            if value is not None and result.get(key) == value:
                return index
    return 0


def _as_string(message: Message, image_token: str) -> Message:
    text = "".join(
        part["text"] if part["type"] == "text" else image_token
        for part in message["content"]
    )
    return {**message, "content": text}
