"""Calls of tools in a conversation, and the messages with their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllama.errors import RequestError, quoted
from mllama.requests.value_checks import is_list


def check_tool_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Checks that each call of a tool has a result, and each result a call.

    Calls in the last message need none.  A result is that of the call whose id it has,
    or of the first call of its ``name`` if it has no id.

    Args:
        messages: A conversation, in OpenAI's form.

    Raises:
        RequestError: If one doesn't, or a call is malformed.
    """
    waiting: dict[str, _Call] = {}
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        if message.get("role") == "tool":
            del waiting[_answered(message, waiting, path)]
            continue
        _check_answered(waiting)
        waiting = {}
        if message.get("role") == "assistant":
            waiting = _calls(message.get("tool_calls"), f"{path}.tool_calls")
    if messages[-1].get("role") != "assistant":
        _check_answered(waiting)


@dataclass(frozen=True)
class _Call:
    """A call that waits for its result."""

    path: str
    name: str


def _answered(
    message: Mapping[str, Any], waiting: Mapping[str, _Call], path: str
) -> str:
    """Returns the id of the call that a message has the result of.

    Raises:
        RequestError: If there is none.
    """
    field, value = "tool_call_id", message.get("tool_call_id")
    if value is None and message.get("name") is not None:
        field, value = "name", message["name"]
        for identity, call in waiting.items():
            if call.name == value:
                return identity
    elif isinstance(value, str) and value in waiting:
        return value
    what = "id" if field == "tool_call_id" else "name"
    raise RequestError(
        f"{path}.{field} must be the {what} of a call in the last message of the "
        f"assistant before it, not {quoted(value)}",
        f"{path}.{field}",
    )


def _check_answered(waiting: Mapping[str, _Call]) -> None:
    for call in waiting.values():
        raise RequestError(
            f"{call.path} has no message of the role tool with its result", call.path
        )


def _calls(calls: Any, path: str) -> dict[str, _Call]:
    """Returns the calls of a message by their ids."""
    if not is_list(calls):
        if not calls:
            return {}
        raise RequestError(f"{path} must be a list of calls", path)
    found: dict[str, _Call] = {}
    for index, call in enumerate(calls):
        place = f"{path}[{index}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise RequestError(
                f'{place} must be {{"id": ..., "type": "function", "function": '
                f'{{"name": ..., "arguments": ...}}}}, not {quoted(call)}',
                place,
            )
        for name, value in (("id", call.get("id")), ("name", function.get("name"))):
            if not isinstance(value, str):
                where = f"{place}.{name}" if name == "id" else f"{place}.function.name"
                raise RequestError(f"{where} must be a string", where)
        if call["id"] in found:
            raise RequestError(
                f"{place}.id is that of another call in the message", f"{place}.id"
            )
        read_arguments(function.get("arguments"), f"{place}.function.arguments")
        found[call["id"]] = _Call(place, function["name"])
    return found


def read_arguments(arguments: Any, path: str) -> dict[str, Any]:
    """Returns the arguments of a call as an object, which templates expect.

    Args:
        arguments: An object, or one as JSON; an empty text or None is an empty one.
        path: Where a body has them, for messages.

    Raises:
        RequestError: If they are something else.
    """
    if isinstance(arguments, str) or arguments is None:
        try:
            arguments = json.loads((arguments or "").strip() or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise RequestError(
            f"{path} must be a JSON object; a call that a limit cut short can't be "
            "sent back",
            path,
        )
    return dict(arguments)
