"""Writes a grammar in llguidance's dialect of Lark."""

from __future__ import annotations

from collections.abc import Mapping

from mllama.grammars.characters import CharacterSet
from mllama.grammars.nodes import (
    EMPTY,
    Alternatives,
    Literal,
    Node,
    OneOf,
    Repeated,
    RuleName,
    Sequential,
    Terminal,
)


def lark_of(rules: Mapping[str, Node]) -> str:
    """Returns rules as text, one a line, and their terminals."""
    terminals: dict[Terminal, str] = {}
    lines = [f"{name}: {_rule(node, terminals)}" for name, node in rules.items()]
    lines += [f"{name}: {_definition(node)}" for node, name in terminals.items()]
    return "\n".join(lines) + "\n"


def _rule(node: Node, terminals: dict[Terminal, str], *, is_part: bool = False) -> str:
    """Returns an expression over terminals; a part of another is in parentheses."""
    if isinstance(node, RuleName):
        return node.name
    if node == EMPTY:
        return '""'
    if isinstance(node, Repeated):
        part = _rule(node.part, terminals, is_part=True)
        text = f"{part}{_times(node)}"
        # A repetition of a repetition needs parentheses.
        return f"({text})" if is_part else text
    if isinstance(node, Sequential):
        # Options without a choice need no parentheses.
        text = " ".join(
            _rule(part, terminals, is_part=isinstance(part, Alternatives))
            for part in node.parts
        )
    elif isinstance(node, Alternatives):
        text = " | ".join(_rule(option, terminals) for option in node.options)
    else:
        unit = node if isinstance(node, Terminal) else Terminal(node)
        return terminals.setdefault(unit, f"T{len(terminals)}")
    if isinstance(node, (Sequential, Alternatives)) and is_part:
        return f"({text})"
    return text


def _definition(node: Terminal) -> str:
    parts = [node.part, *node.also]
    text = " & ".join(f"/{regex_of(part)}/" for part in parts)
    if node.but:
        text += f" & ~/({'|'.join(map(_escaped, node.but))})/"
    return text


def regex_of(node: Node) -> str:
    """Returns an expression without rules in the syntax of Rust's ``regex``."""
    if isinstance(node, Literal):
        return _escaped(node.text)
    if isinstance(node, OneOf):
        return _character_class(node.characters)
    if isinstance(node, Sequential):
        return "".join(map(regex_of, node.parts))
    if isinstance(node, Alternatives):
        return f"({'|'.join(map(regex_of, node.options))})"
    assert isinstance(node, Repeated)
    part = regex_of(node.part)
    is_unit = isinstance(node.part, (OneOf, Alternatives))
    return f"{part if is_unit else f'({part})'}{_times(node)}"


def _times(node: Repeated) -> str:
    signs = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    sign = signs.get((node.least, node.most))
    if sign is not None:
        return sign
    if node.least == node.most:
        return f"{{{node.least}}}"
    return f"{{{node.least},{'' if node.most is None else node.most}}}"


def _character_class(characters: CharacterSet) -> str:
    ranges = (
        _escaped(chr(first))
        if first == last
        else f"{_escaped(chr(first))}-{_escaped(chr(last))}"
        for first, last in characters.ranges
    )
    return f"[{''.join(ranges)}]"


def _escaped(text: str) -> str:
    return "".join(
        each if each.isascii() and each.isalnum() else f"\\x{{{ord(each):x}}}"
        for each in text
    )
