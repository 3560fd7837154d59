"""Types of JSON values, and when two values are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

ALL_TYPES: Final = (
    "object",
    "array",
    "string",
    "integer",
    "number",
    "boolean",
    "null",
)


def common_types(some: Sequence[str], others: Sequence[str]) -> list[str]:
    """Returns the types of values of either list; an integer is a number."""
    found = []
    for kind in some:
        if kind in others:
            found.append(kind)
        elif (kind == "integer" and "number" in others) or (
            kind == "number" and "integer" in others
        ):
            found.append("integer")
    return list(dict.fromkeys(found))


def is_same(one: Any, other: Any) -> bool:
    """Returns True if two values are the same JSON: 1 and 1.0 are, 1 and true not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            is_same(value, other[key]) for key, value in one.items()
        )
    return bool(one == other)


def has_type(value: Any, types: Iterable[str]) -> bool:
    """Returns True if a value is of one of several types."""
    return any(_IS_TYPE[each](value) for each in types)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_IS_TYPE: Final[dict[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and value == int(value),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
