"""Resolves the references and combinations of a JSON schema.

A schema becomes branches, of which a value must fit one.  A branch has the keywords of
all schemas that it combines, and no combinations itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final
from urllib.parse import unquote

from mllama.grammars.json_types import common_types, has_type, is_same
from mllama.grammars.schema_branch import Branch, Schema, combined
from mllama.grammars.schema_keywords import (
    COMBINATORS,
    check_keywords,
    is_annotation,
    unsupported,
)

MAX_BRANCHES: Final = 200
"""The most branches of one schema."""

MAX_DEPTH: Final = 50
"""The most schemas and other containers within each other, and references in a row."""

MAX_STEPS: Final = 20_000
"""The most schemas that are resolved for one document, counted each time."""


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
