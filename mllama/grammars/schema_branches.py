"""Resolves the references and combinations of a JSON schema.

A schema becomes branches, of which a value must fit one.  A branch has the keywords of
all schemas that it combines, and no combinations itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from urllib.parse import unquote

from mllama.grammars.schema_keywords import (
    COMBINATORS,
    check_keywords,
    is_annotation,
    unsupported,
)

Schema = dict[str, Any] | bool

MAX_BRANCHES: Final = 200
"""The most branches of one schema."""

MAX_DEPTH: Final = 50
"""The most schemas and other containers within each other, and references in a row."""

MAX_STEPS: Final = 20_000
"""The most schemas that are resolved for one document, counted each time."""

ALL_TYPES: Final = (
    "object",
    "array",
    "string",
    "integer",
    "number",
    "boolean",
    "null",
)


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


class SchemaDocument:
    """A schema with everything that it refers to.

    Args:
        schema: The schema, which has been checked against that of schemas.
        path: The field of the request that has it.
    """

    def __init__(self, schema: Schema, path: str) -> None:
        self.root = schema
        self.path = path
        self._steps = 0
        self._known: dict[int, list[Branch]] = {}
        # The schemas within others keep their identity when they are combined.
        self._paths: dict[int, str] = {}
        self._note_paths(schema, path, 0)

    def _note_paths(self, node: Any, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise unsupported(path, f"is nested more than {MAX_DEPTH} deep")
        if isinstance(node, dict):
            self._paths[id(node)] = path
            for key, value in node.items():
                self._note_paths(value, f"{path}.{key}", depth + 1)
        elif isinstance(node, list):
            for index, value in enumerate(node):
                self._note_paths(value, f"{path}[{index}]", depth + 1)

    def branches(self, schema: Schema, depth: int = 0) -> list[Branch]:
        """Returns the branches of a schema.

        Raises:
            RequestError: If a keyword can't be honored.
        """
        known = self._known.get(id(schema))
        if known is not None:
            return known
        found = self._resolved(schema, depth)
        if id(schema) in self._paths:
            self._known[id(schema)] = found
        return found

    def _resolved(self, schema: Schema, depth: int) -> list[Branch]:
        """Returns the branches of a schema that isn't known yet."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise unsupported(self.path, "is too large with its combinations")
        if schema is True:
            return [Branch({}, {})]
        if schema is False:
            return []
        path = self._paths.get(id(schema), self.path)
        if depth > MAX_DEPTH:
            raise unsupported(
                path,
                "refers to itself, or to others too deep, without a value in between",
            )
        check_keywords(schema, path)
        found = [self._own(schema, path)]
        parts = []
        if "$ref" in schema:
            parts.append(self._target(schema["$ref"], f"{path}.$ref"))
        for part in [*parts, *schema.get("allOf", ())]:
            found = self._combined(found, self.branches(part, depth + 1))
        for keyword in ("anyOf", "oneOf"):
            if keyword not in schema:
                continue
            options = [self.branches(each, depth + 1) for each in schema[keyword]]
            if keyword == "oneOf":
                options = self._with_discriminator(schema, options)
                self._check_disjoint(options, f"{path}.oneOf", depth)
            found = self._combined(found, [each for some in options for each in some])
        if len(found) > MAX_BRANCHES:
            raise unsupported(path, f"has more than {MAX_BRANCHES} combinations")
        return found

    def _own(self, schema: dict[str, Any], path: str) -> Branch:
        """Returns the branch of a schema's own keywords."""
        own = {
            keyword: value
            for keyword, value in schema.items()
            if keyword not in COMBINATORS and not is_annotation(keyword)
        }
        paths = {keyword: f"{path}.{keyword}" for keyword in own}
        if isinstance(own.get("type"), str):
            own["type"] = [own["type"]]
        if "const" in own:
            value = own.pop("const")
            listed = own.get("enum", [value])
            own["enum"] = [each for each in listed if is_same(each, value)]
            paths.setdefault("enum", f"{path}.const")
        return Branch(own, paths)

    def _target(self, reference: str, path: str) -> Schema:
        """Returns the schema that a reference names."""
        if reference.partition("#")[0]:
            raise unsupported(path, "must begin with #: other schemas aren't loaded")
        node: Any = self.root
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(name) if isinstance(node, list) else name]
            except (LookupError, TypeError, ValueError):
                raise unsupported(path, "refers to nothing in the schema") from None
        if not isinstance(node, (dict, bool)) or not _is_pointer(reference):
            raise unsupported(path, "refers to nothing in the schema")
        return node

    def _combined(
        self, some: Sequence[Branch], others: Sequence[Branch]
    ) -> list[Branch]:
        if len(some) * len(others) > MAX_BRANCHES:
            raise unsupported(self.path, f"has more than {MAX_BRANCHES} combinations")
        pairs = (combined(one, other) for one, other in product(some, others))
        return [each for each in pairs if each is not None]

    def _with_discriminator(
        self, schema: dict[str, Any], options: list[list[Branch]]
    ) -> list[list[Branch]]:
        """Returns options with the property that OpenAPI tells them apart by."""
        discriminator = schema.get("discriminator")
        if not isinstance(discriminator, dict):
            return options
        name = discriminator.get("propertyName")
        needed = Branch({"required": [name]}, {"required": ""})
        return [self._combined(each, [needed]) for each in options]

    def _check_disjoint(
        self, options: list[list[Branch]], path: str, depth: int
    ) -> None:
        for index, option in enumerate(options):
            for other in options[:index]:
                if not all(
                    self._are_disjoint(one, two, depth)
                    for one in option
                    for two in other
                ):
                    raise unsupported(
                        path,
                        "has options that one value can fit both; use anyOf, or a "
                        "required property with another const in each",
                    )

    def _are_disjoint(self, one: Branch, other: Branch, depth: int) -> bool:
        """Returns True if it is certain that no value fits both branches."""
        values = one.keywords.get("enum"), other.keywords.get("enum")
        if values[0] is not None and values[1] is not None:
            return not any(is_same(a, b) for a in values[0] for b in values[1])
        listed = one.keywords.get("enum", other.keywords.get("enum"))
        if listed is not None:
            rest = other if "enum" in one.keywords else one
            return all(not has_type(each, rest.types) for each in listed)
        types = common_types(one.types, other.types)
        if types != ["object"]:
            return not types
        shared = set(one.keywords.get("required", ())) & set(
            other.keywords.get("required", ())
        )
        return depth < MAX_DEPTH and any(
            all(
                self._are_disjoint(a, b, depth + 1)
                for a, b in product(
                    self.branches(_property(one, name), depth + 1),
                    self.branches(_property(other, name), depth + 1),
                )
            )
            for name in shared
        )


def _property(branch: Branch, name: str) -> Schema:
    """Returns the schema of a property of objects."""
    properties = branch.keywords.get("properties", {})
    found: Schema = properties.get(
        name, branch.keywords.get("additionalProperties", True)
    )
    return found


def _is_pointer(reference: str) -> bool:
    return reference == "#" or reference.startswith("#/")


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
