"""JSON schemas as grammars, draft 2020-12.

A schema is honored as it is or refused: every text of the grammar fits the schema, and
each value that fits has its text in the grammar, within what ``json_text`` says of the
form of numbers and strings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jsonschema

from mllama.errors import RequestError, quoted
from mllama.grammars.formats import FORMATS
from mllama.grammars.json_text import (
    QUOTE,
    after_comma,
    any_value,
    brackets,
    character,
    listed,
    one_value_of,
    string_text,
)
from mllama.grammars.json_types import has_type
from mllama.grammars.nodes import (
    EMPTY,
    NOTHING,
    Grammar,
    Node,
    RuleName,
    Terminal,
    alternatives,
    optional,
    repeated,
    sequence,
    terminal,
)
from mllama.grammars.patterns import PatternError, search_match, whole_match
from mllama.grammars.satisfiable import is_satisfiable
from mllama.grammars.schema_branch import Branch, Schema
from mllama.grammars.schema_branches import SchemaDocument
from mllama.grammars.schema_keywords import unsupported
from mllama.grammars.schema_numbers import integer_grammar, number_grammar
from mllama.grammars.schema_objects import object_grammar

MAX_COUNT: Final = 10_000
"""The largest length of a string or an array that a schema can name."""

MAX_LISTED: Final = 1_000
"""The most objects and arrays that ``enum`` can list."""

MAX_SIZE: Final = 4 << 20
"""Characters of a document's schemas, each with those within it."""


def schema_rules(
    schema: Schema, path: str, *, is_closed: bool = False
) -> dict[str, Node]:
    """Returns the rules of the values that fit a schema.

    Args:
        schema: The schema.
        path: The field of the request that has it.
        is_closed: Whether objects that name properties have no others, unless
            ``additionalProperties`` says so.

    Raises:
        RequestError: If it is no schema, a keyword can't be honored, or nothing fits.
    """
    grammar = Grammar()
    root = schema_node(grammar, schema, path, is_closed=is_closed)
    rules = grammar.finished(root)
    if rules is None:
        raise RequestError(f"{path} fits no value that has an end", path)
    return rules


def schema_node(
    grammar: Grammar, schema: Schema, path: str, *, is_closed: bool = False
) -> Node:
    """Returns the values that fit a schema, as a part of a grammar.

    Args:
        grammar: Gets the rules.
        schema: The schema.
        path: The field of the request that has it.
        is_closed: As for :func:`schema_rules`.

    Raises:
        RequestError: If it is no schema, or a keyword can't be honored.
    """
    document = SchemaDocument(schema, path)
    _check_schema(schema, path)
    return SchemaValues(document, grammar, is_closed=is_closed).of(schema)


def _check_schema(schema: Schema, path: str) -> None:
    """Checks a schema against the schema of schemas."""
    validator = jsonschema.Draft202012Validator
    error = jsonschema.exceptions.best_match(
        validator(validator.META_SCHEMA).iter_errors(schema)
    )
    if error is None:
        return
    place = path
    for step in error.absolute_path:
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    raise unsupported(place, f"is wrong in a JSON schema: {quoted(error.instance)}")


class SchemaValues:
    """Makes the grammars of a document's schemas.

    Args:
        document: The document.
        grammar: Gets the rules.
        is_closed: As for :func:`schema_rules`.
    """

    def __init__(
        self, document: SchemaDocument, grammar: Grammar, *, is_closed: bool
    ) -> None:
        self.grammar = grammar
        self._document = document
        self._is_closed = is_closed
        self._known: dict[str, Node] = {}
        self._size = 0

    def of(self, schema: Schema) -> Node:
        """Returns the grammar of a schema's values.

        Raises:
            RequestError: If a keyword can't be honored.
        """
        branches = self._document.branches(schema)
        return alternatives(map(self._branch, branches))

    def _branch(self, branch: Branch) -> Node:
        if not branch.keywords:
            return any_value(self.grammar)
        key = branch.key
        self._size += len(key)
        if self._size > MAX_SIZE:
            raise unsupported(self._document.path, "is too large with its combinations")
        if key not in self._known:
            name = self.grammar.name("value")
            # Before what it is made of, which may refer to it.
            self._known[key] = RuleName(name)
            node = self._values(branch)
            self.grammar.set(name, node)
            if isinstance(node, (RuleName, Terminal)):
                self._known[key] = node
        return self._known[key]

    def _values(self, branch: Branch) -> Node:
        if "enum" in branch.keywords:
            return self._listed(branch)
        makers: dict[str, Callable[[Branch], Node]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": integer_grammar,
            "number": number_grammar,
            "boolean": lambda _: alternatives(map(terminal, ("true", "false"))),
            "null": lambda _: terminal("null"),
        }
        return alternatives(makers[each](branch) for each in branch.types)

    def _listed(self, branch: Branch) -> Node:
        """Returns the values of ``enum``."""
        others = branch.keywords.keys() - {"enum", "type"}
        if others:
            raise branch.refuse(min(others), "can't be combined with enum and const")
        values = [e for e in branch.keywords["enum"] if has_type(e, branch.types)]
        if sum(isinstance(each, (dict, list)) for each in values) > MAX_LISTED:
            reason = f"has more than {MAX_LISTED} objects and arrays"
            raise branch.refuse("enum", reason)
        return one_value_of(values)

    def _object(self, branch: Branch) -> Node:
        return object_grammar(branch, self.grammar, self.of, is_closed=self._is_closed)

    def _array(self, branch: Branch) -> Node:
        keywords = branch.keywords
        prefix = keywords.get("prefixItems", [])
        rest = keywords.get("items", True)
        least = _count(branch, "minItems") or 0
        most = _count(branch, "maxItems")
        if keywords.get("uniqueItems") and (most is None or most > 1):
            raise branch.refuse("uniqueItems", "is honored where maxItems is 1")
        if most is not None and most < least:
            return NOTHING

        def after(index: int) -> Node:
            """Returns what follows so many items."""
            if most is not None and index >= most:
                return EMPTY if index >= least else NOTHING
            fewest = max(0, least - index)
            if index == len(prefix):
                limit = None if most is None else most - index
                if not index:
                    return listed(self.of(rest), fewest, limit)
                return repeated(after_comma(self.of(rest)), fewest, limit)
            item = self.of(prefix[index])
            part = sequence(after_comma(item) if index else item, after(index + 1))
            return part if fewest else optional(part)

        return brackets(after(0))

    def _string(self, branch: Branch) -> Node:
        keywords = branch.keywords
        least = _count(branch, "minLength") or 0
        most = _count(branch, "maxLength")
        if most is not None and most < least:
            return NOTHING
        conditions = []
        if least or most is not None:
            conditions.append(string_text(least, most))
        if "format" in keywords:
            conditions.append(self._formatted(branch))
        if "pattern" in keywords:
            try:
                text = search_match(keywords["pattern"], character)
            except PatternError as error:
                raise branch.refuse("pattern", str(error)) from error
            conditions.append(sequence(QUOTE, text, QUOTE))
        first, *others = conditions or [string_text()]
        text = terminal(first, also=others)
        return text if not others or is_satisfiable(text) else NOTHING

    def _formatted(self, branch: Branch) -> Node:
        expression = FORMATS.get(branch.keywords["format"])
        if expression is None:
            names = ", ".join(FORMATS)
            raise branch.refuse("format", f"must be one of {names}")
        return sequence(QUOTE, whole_match(expression, character), QUOTE)


def _count(branch: Branch, keyword: str) -> int | None:
    """Returns a length that a branch names."""
    count = branch.keywords.get(keyword)
    if count is None:
        return None
    if count > MAX_COUNT:
        raise branch.refuse(keyword, f"must be at most {MAX_COUNT}")
    return int(count)
