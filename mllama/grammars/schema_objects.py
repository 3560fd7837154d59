"""Grammars of JSON objects.

The properties of a schema come in its order, each once, then others, whose names are
none of the schema's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mllama.grammars.json_text import (
    MAX_OTHERS,
    after_comma,
    before_comma,
    braces,
    key,
    key_of,
    listed,
    other_key,
)
from mllama.grammars.nodes import (
    NOTHING,
    Grammar,
    Node,
    alternatives,
    optional,
    repeated,
    sequence,
)
from mllama.grammars.schema_branch import Branch, Schema

MAX_OPTIONAL: Final = 500
"""The most properties of an object that needn't be there: any of them may be next, and
a parser has a limit of what may be next."""

Values = Callable[[Schema], Node]
"""Makes the grammar of a schema's values."""


@dataclass(frozen=True)
class _Property:
    pair: Node
    is_required: bool


def object_grammar(
    branch: Branch, grammar: Grammar, values: Values, *, is_closed: bool
) -> Node:
    """Returns the grammar of the objects that fit a branch.

    Args:
        branch: Keywords of objects.
        grammar: Gets the rules.
        values: Makes the grammars of properties.
        is_closed: Whether objects have no other properties than those that the branch
            names, unless it has ``additionalProperties``.

    Raises:
        RequestError: If a keyword can't be honored.
    """
    keywords = branch.keywords
    named: Mapping[str, Schema] = keywords.get("properties", {})
    default = not (is_closed and named)
    others: Schema = keywords.get("additionalProperties", default)
    required: Sequence[str] = list(dict.fromkeys(keywords.get("required", ())))
    schemas = {**named, **{name: others for name in required if name not in named}}
    properties = [
        _Property(sequence(key(name), values(schema)), name in required)
        for name, schema in schemas.items()
    ]
    if sum(not each.is_required for each in properties) > MAX_OPTIONAL:
        raise branch.refuse(
            "properties", f"has more than {MAX_OPTIONAL} that aren't required"
        )
    other = NOTHING
    if others is not False:
        name = _other_name(branch, list(schemas), values)
        other = grammar.add("other", sequence(name, values(others)))
    least, most = _counts(branch, properties, has_others=other != NOTHING)
    if properties:
        return braces(_content(properties, other, grammar))
    return braces(listed(other, least, MAX_OTHERS if most is None else most))


def _content(properties: Sequence[_Property], other: Node, grammar: Grammar) -> Node:
    """Returns the grammar of what objects with properties have in braces.

    Up to the first required property the others end in a comma, and after it they begin
    with one.  Where none is required, each may be the first.
    """
    others = repeated(after_comma(other), 0, MAX_OTHERS)
    first = next(
        (index for index, each in enumerate(properties) if each.is_required), None
    )
    if first is not None:
        before = [optional(before_comma(each.pair)) for each in properties[:first]]
        after = [_following(each) for each in properties[first + 1 :]]
        return sequence(*before, properties[first].pair, *after, others)
    tail: Node = others
    options = [sequence(other, tail)]
    for each in reversed(properties):
        tail = grammar.add("rest", tail)
        options.append(sequence(each.pair, tail))
        tail = sequence(optional(after_comma(each.pair)), tail)
    return optional(alternatives(options))


def _following(each: _Property) -> Node:
    pair = after_comma(each.pair)
    return pair if each.is_required else optional(pair)


def _counts(
    branch: Branch, properties: Sequence[_Property], *, has_others: bool
) -> tuple[int, int | None]:
    """Returns the least and the greatest number of properties without names.

    Raises:
        RequestError: If numbers of properties can't be honored.
    """
    least = branch.keywords.get("minProperties", 0)
    most = branch.keywords.get("maxProperties")
    required = sum(each.is_required for each in properties)
    if least > required and (properties or least > 1):
        raise branch.refuse(
            "minProperties", "is honored up to 1, or up to the number of required ones"
        )
    if most is not None and properties and (has_others or most < len(properties)):
        raise branch.refuse("maxProperties", "is honored where `properties` isn't")
    return least, most


def _other_name(branch: Branch, names: Sequence[str], values: Values) -> Node:
    """Returns the names of properties that the schema doesn't name, with the colon.

    Raises:
        RequestError: If a keyword can't be honored.
    """
    if "propertyNames" not in branch.keywords:
        return other_key(names)
    if names:
        raise branch.refuse("propertyNames", "is honored where `properties` isn't")
    strings = {"allOf": [{"type": "string"}, branch.keywords["propertyNames"]]}
    return key_of(values(strings))
