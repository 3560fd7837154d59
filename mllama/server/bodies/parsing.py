"""Bytes of a body to its model, and errors that name the wrong field by its path."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from mllama.errors import quoted
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.bodies.schema import REFUSED, Body

Model = TypeVar("Model", bound=Body)

_MOST_LEVELS: Final = 200
"""Where pydantic's parser gives up."""

MAX_JSON_BYTES: Final = 16 << 20
"""The largest body, without long pictures in base64, which are not parsed."""

_MOST_VALUES: Final = {
    b"[{": (25_000, "objects and lists"),
    b'"': (300_000, "quotes"),
    b",": (500_000, "commas"),
    b"\\": (1_000_000, "backslashes"),
}
"""The most of some characters in a body: each step of its parsing would hold the event
loop for more than 50 ms.  Texts with so many don't fit a context either."""

_TYPES = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "finite_number": "a finite number",
}
"""What a value must be, by the type of pydantic's error."""

_MOST_DIGITS: Final = 400
"""The most digits of an integer: converting more takes time that grows with their
square.  No number of a request has as many, and a float has 309 before its point."""

_HINTS: Final = {
    "tool_call_id": "the `id` of the call, in the `tool_calls` of the assistant's "
    "message before it, that the message has the result of",
}
"""What a missing field is to have, where its name doesn't say enough."""


def parse_json(body: bytes | bytearray) -> dict[str, Any]:
    """Returns the JSON object of a body.

    Raises:
        RequestRejected: If it is not one, too large, nested too deeply, not valid
            Unicode, or has a key twice.
    """
    steps = json_steps(body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: dict[str, Any] = end.value
            return value


def json_steps(body: bytes | bytearray) -> Generator[None, None, dict[str, Any]]:
    """Returns the JSON object of a body like ``parse_json``, and yields between steps.

    Each takes less than 50 ms, and holds Python's lock all the time.
    """
    yield from bound_steps(body)
    try:
        # A cache of strings is slow if there are many.
        value = from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        if "recursion limit" in str(error):
            raise RequestRejected(
                f"The body has objects and lists in each other {_MOST_LEVELS} levels "
                "deep; fewer are accepted.",
                code="invalid_json",
            ) from error
        raise RequestRejected(
            f"The body is not valid JSON: {error}.", code="invalid_json"
        ) from error
    if not isinstance(value, dict):
        raise RequestRejected("The body must be a JSON object.", code="invalid_json")
    yield
    _check_keys(body)
    yield
    return value


def bound_steps(text: bytes | bytearray, name: str = "body") -> Iterator[None]:
    """Checks that parsing a JSON text takes neither long nor much memory.

    It yields between steps like ``json_steps``.

    Args:
        text: The text without long strings of base64, whether it is JSON or not.
        name: What messages call it.

    Raises:
        RequestRejected: If it would.
    """
    _check_size(text, name)
    yield
    if _may_have_long_numbers(text):
        _check_numbers(text, name)
        yield


def _may_have_long_numbers(body: bytes | bytearray) -> bool:
    """Returns True if a body has many digits in a row, be it in a text."""
    # A number that is too long has all digits between two of these places.
    step = _MOST_DIGITS // 2
    return any(
        body[place : place + step].isdigit() for place in range(0, len(body), step)
    )


def _check_numbers(body: bytes | bytearray, name: str) -> None:
    """Refuses integers of too many digits."""
    try:
        json.loads(body, parse_int=_short_number, parse_float=len)
    except _LongNumberError:
        raise RequestRejected(
            f"The {name} is not valid JSON: it has a number of more than "
            f"{_MOST_DIGITS} digits.",
            code="invalid_json",
        ) from None
    except (ValueError, RecursionError):
        pass  # Parsing it says what is wrong.


class _LongNumberError(Exception):
    """A number has too many digits."""


def _short_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise _LongNumberError
    return 0


def _check_keys(body: bytes | bytearray) -> None:
    """Refuses an object with a key twice: which value counts would be the parser's
    choice."""
    try:
        # Numbers are not needed here, and take long to convert.
        json.loads(body, object_pairs_hook=_unique_keys, parse_float=len, parse_int=len)
    except ValueError as error:
        raise RequestRejected(
            f"The body is not valid JSON: {error}.", code="invalid_json"
        ) from error


def _check_size(body: bytes | bytearray, name: str) -> None:
    if len(body) > MAX_JSON_BYTES:
        raise RequestRejected(
            f"The {name} has {len(body)} bytes of JSON beside images in base64; at "
            f"most {MAX_JSON_BYTES} are accepted.",
            code="request_too_large",
            status=413,
        )
    if len(body) < min(most for most, _ in _MOST_VALUES.values()):
        return
    for characters, (most, what) in _MOST_VALUES.items():
        if sum(map(body.count, characters)) > most:
            raise RequestRejected(
                f"The {name} has more than {most} {what}, which is too many.",
                code="request_too_large",
                status=413,
            )


def _unique_keys(pairs: list[tuple[str, Any]]) -> None:
    """Refuses an object that has a key twice."""
    if len(dict(pairs)) == len(pairs):
        return
    # Not list.count, which would take minutes for the keys that a body may have.
    counts = Counter(key for key, _ in pairs)
    twice = next(key for key, count in counts.items() if count > 1)
    raise RequestRejected(
        f"The body has the key {quoted(twice)} twice in one object.",
        code="invalid_json",
    )


def parse_body(model: type[Model], body: Mapping[str, Any]) -> Model:
    """Returns a body as its model.

    Raises:
        RequestRejected: If a field is wrong, unknown or refused.  It names the first.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _rejection(error.errors(include_url=False)[0], body) from None


def _rejection(error: ErrorDetails, body: Mapping[str, Any]) -> RequestRejected:
    path = path_of(error["loc"], body)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        hint = _HINTS.get(str(error["loc"][-1]))
        return RequestRejected(
            f"`{path}` is required{f': {hint}' if hint else ''}.",
            path,
            code="missing_required_parameter",
        )
    if kind == "extra_forbidden":
        return RequestRejected(
            f"`{path}` is not a field that this server knows.",
            path,
            code="unknown_parameter",
        )
    if kind == REFUSED:
        return RequestRejected(
            f"`{path}` {error['msg']}.", path, code="unsupported_parameter"
        )
    if kind in _TYPES:
        return RequestRejected(
            f"`{path}` must be {_TYPES[kind]}, not {quoted(error['input'])}.",
            path,
            code="invalid_type",
        )
    if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
        return RequestRejected(
            f"`{path}` must not be empty.", path, code="invalid_value"
        )
    # A long list or text would fill the message.
    value = error["input"]
    is_long = kind in ("too_long", "string_too_long")
    return RequestRejected(
        f"`{path}` {_requirement(kind, context, error['msg'])}, "
        f"not {len(value) if is_long else quoted(value)}.",
        path,
        code="invalid_value",
    )


def _requirement(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Returns what an error says that a value must be."""
    if kind in ("greater_than_equal", "too_short"):
        least = context.get("ge", context.get("min_length"))
        has = "have" if kind == "too_short" else "be"
        return f"must {has} at least {least:g}" + " entries" * (has == "have")
    if kind in ("less_than_equal", "too_long"):
        most = context.get("le", context.get("max_length"))
        has = "have" if kind == "too_long" else "be"
        return f"must {has} at most {_plain(most)}" + " entries" * (has == "have")
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    if kind == "greater_than":
        return f"must be greater than {context['gt']:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}"
    return message[:1].lower() + message[1:]


def _plain(number: Any) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def path_of(location: tuple[int | str, ...], body: Any) -> str:
    """Returns the path of an error, such as ``messages[0].content[1].text``.

    Args:
        location: Keys, indices, and tags of unions, which are in angle brackets.
        body: The body that the error is in.
    """
    path = ""
    for step in location:
        if isinstance(step, str) and step.startswith("<") and step.endswith(">"):
            if not (isinstance(body, Mapping) and step in body):
                continue
        elif step == "[key]":
            break
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
        body = _entry(body, step)
    return path


def _entry(value: Any, step: int | str) -> Any:
    try:
        return value[step]
    except (LookupError, TypeError):
        return None
