"""Regular expressions as grammars, in Python's syntax.

``\\d``, ``\\w`` and ``\\s`` are ASCII, and ``.`` is no end of a line, as in
JavaScript: what such an expression accepts, Python's accepts as well.  What isn't
regular, such as a look-ahead or a back reference, is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from mllama.grammars.characters import ALL, DIGITS, CharacterSet
from mllama.grammars.nodes import (
    EMPTY,
    NOTHING,
    Node,
    alternatives,
    one_of,
    repeated,
    sequence,
)

_HAS_PACKAGE: Final = sys.version_info >= (3, 11)
sre: Any = import_module("re._constants" if _HAS_PACKAGE else "sre_constants")
sre_parser: Any = import_module("re._parser" if _HAS_PACKAGE else "sre_parse")

MAX_REPEATS: Final = 10_000
"""The most repetitions of an expression that can be counted, and of all within each
other."""

Encode = Callable[[CharacterSet], Node]
"""Makes the grammar of one character of a set."""

_DIGITS: Final = DIGITS
_WORD: Final = CharacterSet.of([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACE: Final = CharacterSet.of_text(" \t\n\r\f\v")
_LINE_ENDS: Final = CharacterSet.of_text("\n\r\u2028\u2029")
_CATEGORIES: Final = {
    sre.CATEGORY_DIGIT: _DIGITS,
    sre.CATEGORY_NOT_DIGIT: ALL - _DIGITS,
    sre.CATEGORY_WORD: _WORD,
    sre.CATEGORY_NOT_WORD: ALL - _WORD,
    sre.CATEGORY_SPACE: _SPACE,
    sre.CATEGORY_NOT_SPACE: ALL - _SPACE,
}
_NAMES: Final = {
    sre.ASSERT: "a look-ahead or look-behind",
    sre.ASSERT_NOT: "a negative look-ahead or look-behind",
    sre.AT: "an anchor within the expression",
    sre.GROUPREF: "a back reference",
    sre.GROUPREF_EXISTS: "a conditional group",
}
_EQUIVALENTS: Final = {
    # Pydantic's pattern of a decimal.
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$",
}
"""Expressions that are refused as they are, and others that match the same."""

_UNICODE_CLASS: Final = re.compile(r"(?<!\\)(?:\\\\)*(\\[pP](?:\{[^}]{0,40}\})?)")
"""Classes of ECMAScript's expressions that Python's don't have."""


class PatternError(ValueError):
    """An expression that is wrong, or that no grammar can express."""


def whole_match(pattern: str, encode: Encode = one_of) -> Node:
    """Returns the texts that an expression matches from begin to end.

    Args:
        pattern: The expression.
        encode: Makes the grammar of one character.

    Raises:
        PatternError: If there is no grammar of it.
    """
    branches = _branches(_parsed(pattern))
    return alternatives(
        _items(items[_begins(items) : len(items) - _ends(items)], encode)
        for items in branches
    )


def search_match(pattern: str, encode: Encode = one_of) -> Node:
    """Returns the texts in which an expression matches somewhere.

    Args:
        pattern: The expression.
        encode: Makes the grammar of one character.

    Raises:
        PatternError: If there is no grammar of it.
    """
    anything = repeated(encode(ALL))
    options = []
    for items in _branches(_parsed(pattern)):
        first, last = _begins(items), _ends(items)
        middle = _items(items[first : len(items) - last], encode)
        options.append(
            sequence(EMPTY if first else anything, middle, EMPTY if last else anything)
        )
    return alternatives(options)


def _parsed(pattern: str) -> Any:
    if found := _UNICODE_CLASS.search(pattern):
        raise PatternError(
            f"has the class {found[1]} of Unicode characters, which is not supported"
        )
    try:
        parsed = sre_parser.parse(_EQUIVALENTS.get(pattern, pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"is no regular expression: {error}") from error
    if parsed.state.flags & ~re.UNICODE:
        raise PatternError("has flags, which are not supported")
    return parsed


def _branches(parsed: Any) -> list[list[Any]]:
    """Returns the alternatives of an expression, each a list of items."""
    items = list(parsed)
    if len(items) == 1:
        operation, argument = items[0]
        if operation is sre.BRANCH:
            return [each for option in argument[1] for each in _branches(option)]
        if operation is sre.SUBPATTERN and _has_anchor(argument[3]):
            return _branches(argument[3])
    return [items]


def _has_anchor(parsed: Any) -> bool:
    return any(
        operation is sre.AT
        or (operation is sre.BRANCH and any(map(_has_anchor, argument[1])))
        or (operation is sre.SUBPATTERN and _has_anchor(argument[3]))
        for operation, argument in parsed
    )


def _begins(items: list[Any]) -> int:
    """Returns 1 if a list of items begins with an anchor, or else 0."""
    anchors = (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
    return int(bool(items) and items[0][0] is sre.AT and items[0][1] in anchors)


def _ends(items: list[Any]) -> int:
    anchors = (sre.AT_END, sre.AT_END_STRING)
    return int(bool(items) and items[-1][0] is sre.AT and items[-1][1] in anchors)


def _items(items: Any, encode: Encode, repeats: int = 1) -> Node:
    return sequence(*(_item(op, value, encode, repeats) for op, value in items))


def _item(operation: Any, value: Any, encode: Encode, repeats: int) -> Node:
    if operation in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
        characters = _characters(operation, value)
        return encode(characters) if characters else NOTHING
    if operation is sre.BRANCH:
        return alternatives(_items(each, encode, repeats) for each in value[1])
    if operation is sre.SUBPATTERN:
        if value[1] or value[2]:
            raise PatternError("has flags, which are not supported")
        return _items(value[3], encode, repeats)
    if operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, part = value
        unlimited = most == sre.MAXREPEAT
        repeats *= max(1, least if unlimited else most)
        if repeats > MAX_REPEATS:
            raise PatternError(f"repeats something more than {MAX_REPEATS} times")
        return repeated(
            _items(part, encode, repeats), int(least), None if unlimited else int(most)
        )
    name = _NAMES.get(operation, str(operation).lower())
    raise PatternError(f"has {name}, which is not supported")


def _characters(operation: Any, value: Any) -> CharacterSet:
    if operation is sre.LITERAL:
        return CharacterSet.of([(value, value)])
    if operation is sre.NOT_LITERAL:
        return ALL - CharacterSet.of([(value, value)])
    if operation is sre.ANY:
        return ALL - _LINE_ENDS
    found = CharacterSet(())
    negates = False
    for kind, argument in value:
        if kind is sre.NEGATE:
            negates = True
        elif kind is sre.RANGE:
            found |= CharacterSet.of([argument])
        elif kind is sre.CATEGORY:
            found |= _CATEGORIES[argument]
        else:
            found |= CharacterSet.of([(argument, argument)])
    return ALL - found if negates else found
