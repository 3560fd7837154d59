"""The grammar of each kind of format, as text."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from mllama.errors import RequestError
from mllama.grammars.gbnf import GbnfError, gbnf_rules, is_gbnf
from mllama.grammars.json_text import any_object
from mllama.grammars.lark import lark_of
from mllama.grammars.nodes import Grammar, Node, alternatives, terminal
from mllama.grammars.patterns import PatternError, whole_match
from mllama.grammars.schema import schema_node, schema_rules
from mllama.grammars.tool_calls import calls_node, free_text

FormatKind = Literal[
    "json_object", "json_schema", "regex", "choice", "grammar", "tool_calls"
]

MAX_GRAMMAR_BYTES: Final = 1 << 20
"""The largest grammar that a schema or an expression may become, as text."""


def format_grammar(kind: FormatKind, source: str, *, is_strict: bool, path: str) -> str:
    """Returns the grammar of the answers that have a format.

    Args:
        kind: The kind of format.
        source: What it says: a schema or a list of texts as JSON, an expression, or a
            grammar in Lark or GBNF.
        is_strict: Whether objects of a schema have no properties beside those that it
            names, unless it says so.
        path: The field of the request that asks for it, for messages.

    Raises:
        RequestError: If it can't be honored.
    """
    grammar = (
        _own_grammar(source, path)
        if kind == "grammar"
        else lark_of(_rules(kind, source, is_strict, path))
    )
    if len(grammar) > MAX_GRAMMAR_BYTES:
        raise RequestError(f"{path} becomes too large a grammar", path)
    return grammar


def _own_grammar(source: str, path: str) -> str:
    """Returns a user's own grammar in Lark, which it is, or else GBNF."""
    if not is_gbnf(source):
        return source
    try:
        rules = gbnf_rules(source)
    except GbnfError as error:
        raise RequestError(f"{path} {error}", path) from error
    if rules is None:
        raise RequestError(f"{path} has no text that ends", path)
    return lark_of(rules)


def _rules(
    kind: FormatKind, source: str, is_strict: bool, path: str
) -> dict[str, Node]:
    if kind == "json_schema":
        return schema_rules(json.loads(source), path, is_closed=is_strict)
    grammar = Grammar()
    rules = grammar.finished(_node(grammar, kind, source, is_strict, path))
    if rules is None:
        raise RequestError(f"{path} matches nothing", path)
    return rules


def _node(
    grammar: Grammar, kind: FormatKind, source: str, is_strict: bool, path: str
) -> Node:
    """Returns the answers that have a format, as a part of a grammar."""
    if kind == "json_object":
        return any_object(grammar, not_first=json.loads(source or "[]"))
    if kind == "json_schema":
        return schema_node(grammar, json.loads(source), path, is_closed=is_strict)
    if kind == "choice":
        return terminal(alternatives(json.loads(source)))
    if kind == "tool_calls":
        return _calls_or_text(grammar, json.loads(source))
    try:
        return terminal(whole_match(source))
    except PatternError as error:
        raise RequestError(f"{path} {error}", path) from error


def _calls_or_text(grammar: Grammar, source: Any) -> Node:
    """Returns calls of tools, or the text that may stand in their place."""
    calls, text = calls_node(grammar, source), source["text"]
    if text is None:
        return calls
    if text == "any":
        return alternatives([calls, free_text()])
    return alternatives([calls, _node(grammar, **text)])
