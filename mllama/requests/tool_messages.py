"""Calls of tools in a conversation, and the messages with their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mllama.errors import RequestError, quoted
from mllama.requests.value_checks import is_list


def check_tool_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Checks that each call of a tool has a result, and each result a call.

    Calls in the last message need none.

    Args:
        messages: A conversation, in OpenAI's form.

    Raises:
        RequestError: If one doesn't, or a call is malformed.
    """
    waiting: dict[Any, str] = {}
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        if message.get("role") == "tool":
            name = message.get("tool_call_id")
            if not isinstance(name, str) or name not in waiting:
                raise RequestError(
                    f"{path}.tool_call_id must be the id of a call in the last message "
                    f"of the assistant before it, not {quoted(name)}",
                    f"{path}.tool_call_id",
                )
            del waiting[name]
            continue
        _check_answered(waiting)
        waiting = {}
        if message.get("role") == "assistant":
            waiting = _calls(message.get("tool_calls"), f"{path}.tool_calls")
    if messages[-1].get("role") != "assistant":
        _check_answered(waiting)


def _check_answered(waiting: Mapping[Any, str]) -> None:
    for path in waiting.values():
        raise RequestError(
            f"{path} has no message of the role tool with its result", path
        )


def _calls(calls: Any, path: str) -> dict[Any, str]:
    """Returns the paths of calls by their ids."""
    if not is_list(calls):
        if not calls:
            return {}
        raise RequestError(f"{path} must be a list of calls", path)
    found: dict[Any, str] = {}
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
        found[call["id"]] = place
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
        raise RequestError(f"{path} must be a JSON object", path)
    return dict(arguments)
