"""Expressions of grammars as Python's regular expressions, to see what they match."""

from __future__ import annotations

import re

from mllama.grammars.nodes import (
    Alternatives,
    Literal,
    Node,
    OneOf,
    Repeated,
    Sequential,
)


def matches(node: Node, text: str) -> bool:
    """Returns True if an expression without rules derives a text."""
    return re.fullmatch(regex_of(node), text, re.DOTALL) is not None


def regex_of(node: Node) -> str:
    if isinstance(node, Literal):
        return re.escape(node.text)
    if isinstance(node, OneOf):
        ranges = (
            f"\\U{first:08x}-\\U{last:08x}" for first, last in node.characters.ranges
        )
        return f"[{''.join(ranges)}]"
    if isinstance(node, Sequential):
        return "".join(map(regex_of, node.parts))
    if isinstance(node, Alternatives):
        return (
            f"(?:{'|'.join(map(regex_of, node.options))})" if node.options else "(?!)"
        )
    assert isinstance(node, Repeated)
    most = "" if node.most is None else node.most
    return f"(?:{regex_of(node.part)}){{{node.least},{most}}}"
