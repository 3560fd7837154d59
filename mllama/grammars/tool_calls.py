"""Grammars of answers that call tools, in Llama's JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mllama.errors import RequestError, quoted
from mllama.grammars.characters import ALL, CharacterSet
from mllama.grammars.json_text import (
    after_comma,
    any_object,
    braces,
    key,
    value_of,
)
from mllama.grammars.nodes import (
    EMPTY,
    Grammar,
    Node,
    alternatives,
    one_of,
    optional,
    repeated,
    sequence,
    terminal,
)
from mllama.grammars.schema import schema_node

SEPARATOR: Final = "; "
"""What stands between two calls, as Llama writes it."""

MAX_CALLS: Final = 128
"""Calls of one answer: an end for a model that repeats itself."""

_SPACE: Final = CharacterSet.of_text(" \t\r\n")


def calls_node(grammar: Grammar, source: Mapping[str, Any]) -> Node:
    """Returns calls of tools: one, or one and more.

    Args:
        grammar: Gets the rules.
        source: ``tools``, a list of objects with the ``name`` of a tool, the JSON
            schema of its ``parameters`` or None, ``is_strict`` and the ``path`` of the
            schema; and ``parallel``, whether there may be several calls.

    Raises:
        RequestError: If the schema of a strict tool can't be honored.
    """
    call = alternatives(_call(grammar, tool) for tool in source["tools"])
    call = grammar.add("call", call)
    if not source["parallel"]:
        return call
    another = sequence(terminal(SEPARATOR), call)
    return sequence(call, repeated(another, 0, MAX_CALLS - 1))


def _call(grammar: Grammar, tool: Mapping[str, Any]) -> Node:
    name = sequence(key("name"), value_of(tool["name"]))
    arguments = sequence(key("parameters"), _arguments(grammar, tool))
    return braces(sequence(name, after_comma(arguments)))


def _arguments(grammar: Grammar, tool: Mapping[str, Any]) -> Node:
    """Returns a tool's arguments.

    They are any object if the tool isn't strict and its schema can't be honored.

    Raises:
        RequestError: If the schema of a strict tool can't be honored.
    """
    path = tool["path"]
    try:
        schema = _object_schema(tool["parameters"], path)
        return schema_node(grammar, schema, path, is_closed=True)
    except RequestError:
        if tool["is_strict"]:
            raise
        return any_object(grammar)


def _object_schema(schema: Any, path: str) -> dict[str, Any]:
    """Returns the schema of arguments, which are an object.

    Raises:
        RequestError: If it is of something else.
    """
    if schema is None:
        schema = {"properties": {}}
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise RequestError(
            f"{path} must be the schema of an object, not {quoted(schema)}", path
        )
    closed = {"additionalProperties": False} if schema.get("properties") == {} else {}
    return {"type": "object", **closed, **schema}


def free_text() -> Node:
    """Returns any text that isn't read as calls in the JSON form.

    After white space it doesn't begin with a brace, with one in a list, or as special
    tokens do.
    """
    any_text = repeated(one_of(ALL))
    space = repeated(one_of(_SPACE))

    def beside(characters: str) -> Node:
        """Returns text that begins with a visible character other than some."""
        first = ALL - _SPACE - CharacterSet.of_text(characters)
        return sequence(one_of(first), any_text)

    no_tag = sequence(one_of(ALL - CharacterSet.of_text("|")), any_text)
    visible = alternatives(
        [
            beside("{[<"),
            sequence("[", space, optional(beside("{"))),
            sequence("<", optional(no_tag)),
        ]
    )
    some_space = repeated(one_of(_SPACE), 1)
    return alternatives(
        [EMPTY, terminal(alternatives([some_space, sequence(space, visible)]))]
    )
