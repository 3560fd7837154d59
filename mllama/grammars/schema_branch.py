"""A schema without combinations, and what two of them say together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mllama.grammars.json_types import ALL_TYPES, common_types, is_same
from mllama.grammars.schema_keywords import unsupported

Schema = dict[str, Any] | bool


@dataclass(frozen=True)
class Branch:
    """Keywords without combinations.

    Attributes:
        keywords: Their values; ``const`` is an ``enum``, and ``type`` a list.
        paths: Where each one is from, for messages.
    """

    keywords: Mapping[str, Any]
    paths: Mapping[str, str]

    @property
    def key(self) -> str:
        """Returns a text that is the same for the same keywords."""
        return json.dumps(self.keywords, sort_keys=False)

    @property
    def types(self) -> list[str]:
        """Returns the types of values; a number may be an integer."""
        types = list(self.keywords.get("type", ALL_TYPES))
        return [each for each in types if each != "integer" or "number" not in types]

    def refuse(self, keyword: str, reason: str) -> Exception:
        """Returns the error of a keyword that can't be honored."""
        return unsupported(self.paths[keyword], reason)


def combined(one: Branch, other: Branch) -> Branch | None:
    """Returns the branch of the values that fit two branches; None if no type does.

    Raises:
        RequestError: If it can't be said by one schema.
    """
    first, second = one.keywords, other.keywords
    if not first or not second:
        return other if second else one
    keywords = {**first, **second}
    paths = {**one.paths, **other.paths}
    for keyword in first.keys() & second.keys():
        a, b = first[keyword], second[keyword]
        combine = _COMBINE.get(keyword)
        if combine is not None:
            keywords[keyword] = combine(a, b)
        elif keyword not in _GROUPED and a != b:
            raise unsupported(
                paths[keyword], "can't be combined with that of another schema"
            )
    if keywords.get("type") == []:
        return None
    keywords.update(_combined_objects(first, second))
    keywords.update(_combined_arrays(first, second))
    return Branch(keywords, paths)


def _combined_objects(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the properties of both: each must fit what each schema says of it."""
    both = (first, second)
    named = [each.get("properties", {}) for each in both]
    others = [each.get("additionalProperties", True) for each in both]
    combined: dict[str, Any] = {}
    names = list(dict.fromkeys([*named[0], *named[1]]))
    if names:
        combined["properties"] = {
            name: _all_of(named[0].get(name, others[0]), named[1].get(name, others[1]))
            for name in names
        }
    if any("additionalProperties" in each for each in both):
        combined["additionalProperties"] = _all_of(*others)
    return combined


def _combined_arrays(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the items of both."""
    both = (first, second)
    prefixes = [each.get("prefixItems", []) for each in both]
    rests = [each.get("items", True) for each in both]
    length = max(map(len, prefixes))
    combined: dict[str, Any] = {}
    if length:
        padded = [
            [*prefix, *[rest] * (length - len(prefix))]
            for prefix, rest in zip(prefixes, rests, strict=True)
        ]
        combined["prefixItems"] = [_all_of(a, b) for a, b in zip(*padded, strict=True)]
    if any("items" in each for each in both):
        combined["items"] = _all_of(*rests)
    return combined


def _all_of(one: Schema, other: Schema) -> Schema:
    if one is True or one == other:
        return other
    if other is True:
        return one
    if one is False or other is False:
        return False
    return {"allOf": [one, other]}


def _union(some: Iterable[str], others: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*some, *others]))


_GROUPED: Final = frozenset(
    {"properties", "additionalProperties", "prefixItems", "items"}
)
"""Keywords that are combined together."""

_COMBINE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "type": common_types,
    "enum": lambda a, b: [each for each in a if any(is_same(each, e) for e in b)],
    "required": _union,
    "propertyNames": _all_of,
    "uniqueItems": lambda a, b: a or b,
    **dict.fromkeys(
        ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max
    ),
    **dict.fromkeys(
        ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min
    ),
}
