"""The form in which JSON is written: the text of a value, and grammars of it.

Each value has one text: that of Python's ``json.dumps(value, ensure_ascii=False)``,
with a space after each comma and colon and none elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mllama.grammars.characters import ALL, DIGITS, CharacterSet
from mllama.grammars.nodes import (
    EMPTY,
    NOTHING,
    Alternatives,
    Grammar,
    Literal,
    Node,
    RuleName,
    Terminal,
    alternatives,
    one_of,
    optional,
    repeated,
    sequence,
    terminal,
)

QUOTE: Final = '"'

MAX_DIGITS: Final = 40
"""Digits of a number before its point, and after it: an end for a model that repeats a
digit."""

MAX_NAME: Final = 64
"""Characters of a property's name that no schema names."""

MAX_OTHERS: Final = 64
"""Properties of an object that no schema names: an end for a model that goes on."""

_WHOLE_DIGITS: Final = 20
_FRACTION_DIGITS: Final = 17
"""Digits of a number without bounds; 17 are all that a floating-point number has."""

_GROUP: Final = 500
"""Texts of one terminal."""

_COMMA: Final = terminal(", ")
_COLON: Final = ": "
_ESCAPED: Final = CharacterSet.of([(0, 0x1F), (ord('"'), ord('"')), (0x5C, 0x5C)])


def value_of(value: Any) -> Node:
    """Returns a value, of which each string, number and sign is a terminal.

    Raises:
        ValueError: If it is no JSON: a number that isn't finite.
    """
    if isinstance(value, dict):
        pairs = [sequence(key(name), value_of(each)) for name, each in value.items()]
        return sequence(terminal("{"), *_joined(pairs), terminal("}"))
    if isinstance(value, list):
        items = map(value_of, value)
        return sequence(terminal("["), *_joined(items), terminal("]"))
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        # To a schema, 1.0 and 1 are the same.
        return terminal(alternatives([_text(value), _text(int(value))]))
    return terminal(_text(value))


def one_value_of(values: Iterable[Any]) -> Node:
    """Returns one of several values.

    Raises:
        ValueError: If one is no JSON.
    """
    nodes = [value_of(each) for each in values]
    # A parser has a limit of terminals in a place, so that one has many texts.
    texts = [node.part for node in nodes if isinstance(node, Terminal)]
    groups = (
        terminal(alternatives(texts[start : start + _GROUP]))
        for start in range(0, len(texts), _GROUP)
    )
    others = (node for node in nodes if not isinstance(node, Terminal))
    return alternatives([*groups, *others])


def _joined(parts: Iterable[Node]) -> list[Node]:
    joined: list[Node] = []
    for part in parts:
        joined += [_COMMA, part] if joined else [part]
    return joined


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def key(name: str) -> Node:
    """Returns a property's name with the colon."""
    return terminal(_text(name) + _COLON)


def other_key(names: Sequence[str]) -> Node:
    """Returns any name with the colon, but some names."""
    return terminal(
        sequence(string_text(most=MAX_NAME), _COLON),
        but=[_text(name) + _COLON for name in names],
    )


def key_of(string: Node) -> Node:
    """Returns a name that is one of a grammar's strings, with the colon.

    They are one terminal, as other names are: of terminals that begin alike, a parser
    takes the longest.
    """
    if isinstance(string, Alternatives):
        return alternatives([key_of(each) for each in string.options])
    if isinstance(string, Terminal):
        return terminal(
            sequence(string.part, _COLON),
            also=[sequence(each, _COLON) for each in string.also],
            but=[text + _COLON for text in string.but],
        )
    return sequence(string, terminal(_COLON))


def listed(part: Node, least: int, most: int | None) -> Node:
    """Returns a part several times, with commas in between.

    Args:
        part: The part.
        least: How often at least.
        most: How often at most; None is without an end.
    """
    if most is not None and most < least:
        return NOTHING
    if most == 0:
        return EMPTY
    limit = None if most is None else most - 1
    several = sequence(part, repeated(after_comma(part), max(0, least - 1), limit))
    return several if least else optional(several)


def after_comma(part: Node) -> Node:
    """Returns a part with a comma before it."""
    return sequence(_COMMA, part)


def before_comma(part: Node) -> Node:
    """Returns a part with a comma after it."""
    return sequence(part, _COMMA)


def braces(content: Node) -> Node:
    """Returns an object with a content."""
    return sequence(terminal("{"), content, terminal("}"))


def brackets(content: Node) -> Node:
    """Returns an array with a content."""
    return sequence(terminal("["), content, terminal("]"))


def character(allowed: CharacterSet = ALL) -> Node:
    """Returns one character of a JSON string, escaped if it must be."""
    escapes = [
        _text(chr(code))[1:-1]
        for first, last in (allowed & _ESCAPED).ranges
        for code in range(first, last + 1)
    ]
    return alternatives([one_of(allowed - _ESCAPED), _one_escape(escapes)])


def _one_escape(escapes: list[str]) -> Node:
    """Returns one of several escapes, with what they share written once."""
    options = [
        one_of(CharacterSet.of_text("".join(e[1] for e in escapes if len(e) == 2)))
    ]
    for tens in "01":
        ones = [each[5] for each in escapes if len(each) == 6 and each[4] == tens]
        options.append(sequence(f"u00{tens}", one_of(CharacterSet.of_text(ones))))
    return sequence("\\", alternatives(options))


def string_text(least: int = 0, most: int | None = None) -> Node:
    """Returns the text of strings with so many characters."""
    return sequence(QUOTE, repeated(character(), least, most), QUOTE)


def _natural(digits: int) -> Node:
    """Returns the digits of an integer above 0."""
    first = one_of(CharacterSet.of_text("123456789"))
    return sequence(first, repeated(one_of(DIGITS), 0, digits - 1))


def integer_text() -> Node:
    """Returns the text of any integer."""
    return alternatives(["0", sequence(optional(Literal("-")), _natural(MAX_DIGITS))])


def number_text() -> Node:
    """Returns the text of any number, whose exponent is at most 307."""
    digit = one_of(DIGITS)
    fraction = optional(sequence(".", repeated(digit, 1, _FRACTION_DIGITS)))
    plain = sequence(alternatives(["0", _natural(_WHOLE_DIGITS)]), fraction)
    mantissa = sequence(one_of(CharacterSet.of_text("123456789")), fraction)
    hundreds = sequence(one_of(CharacterSet.of_text("12")), digit, digit)
    last = sequence("30", one_of(CharacterSet.of_text("01234567")))
    exponent = alternatives([sequence(digit, optional(digit)), hundreds, last])
    sign = optional(one_of(CharacterSet.of_text("+-")))
    scientific = sequence(mantissa, "e", sign, exponent)
    return sequence(optional(Literal("-")), alternatives([plain, scientific]))


def any_value(grammar: Grammar) -> RuleName:
    """Returns any JSON value."""
    value = RuleName("json_value")
    scalars = [string_text(), number_text(), *map(Literal, ("true", "false", "null"))]
    grammar.shared(
        "json_value",
        alternatives(
            [
                *map(terminal, scalars),
                RuleName("json_object"),
                RuleName("json_array"),
            ]
        ),
    )
    pair = sequence(other_key([]), value)
    grammar.shared("json_object", braces(listed(pair, 0, MAX_OTHERS)))
    grammar.shared("json_array", brackets(listed(value, 0, None)))
    return value


def any_object(grammar: Grammar, *, not_first: Sequence[str] = ()) -> Node:
    """Returns any JSON object.

    Args:
        grammar: Gets the rules.
        not_first: Names that its first property doesn't have.
    """
    value = any_value(grammar)
    if not not_first:
        return RuleName("json_object")
    first = sequence(other_key(not_first), value)
    another = after_comma(sequence(other_key([]), value))
    return braces(optional(sequence(first, repeated(another, 0, MAX_OTHERS - 1))))
