"""Grammars as data, from which a text is written.

A node is an expression over characters.  Rules are made of terminals, which are regular
expressions and end where they can't go on: where one has ended, another one in the same
place may go on only as long as it surely has an end.

Alternatives without a member stand for nothing at all, such as the values of the schema
``false``: whatever needs them is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mllama.grammars.characters import CharacterSet

ROOT: Final = "start"
"""The rule of which a grammar's texts are."""


class Node:
    """An expression of a grammar."""


@dataclass(frozen=True)
class Literal(Node):
    """A text."""

    text: str


@dataclass(frozen=True)
class OneOf(Node):
    """One character of a set."""

    characters: CharacterSet


@dataclass(frozen=True)
class Terminal(Node):
    """A regular expression that is a unit for rules.

    Attributes:
        part: The expression, without rules and terminals.
        also: Expressions that the text has to match too.
        but: Texts that it is not.
    """

    part: Node
    also: tuple[Node, ...] = ()
    but: tuple[str, ...] = ()


@dataclass(frozen=True)
class RuleName(Node):
    """What a rule stands for."""

    name: str


@dataclass(frozen=True)
class Sequential(Node):
    """Several expressions in a row."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives(Node):
    """One of several expressions; none of them stands for nothing at all."""

    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeated(Node):
    """An expression several times.

    Attributes:
        part: The expression.
        least: How often at least.
        most: How often at most; None is without an end.
    """

    part: Node
    least: int
    most: int | None


EMPTY: Final[Node] = Literal("")
NOTHING: Final[Node] = Alternatives(())


def terminal(
    part: Node | str, *, also: Iterable[Node] = (), but: Iterable[str] = ()
) -> Node:
    """Returns a unit for rules; see :class:`Terminal`."""
    node = Literal(part) if isinstance(part, str) else part
    others = tuple(also)
    if NOTHING in (node, *others):
        return NOTHING
    return Terminal(node, others, tuple(but))


def sequence(*parts: Node | str) -> Node:
    """Returns expressions in a row; texts stand for themselves."""
    flat: list[Node] = []
    for part in parts:
        node = Literal(part) if isinstance(part, str) else part
        if node == NOTHING:
            return NOTHING
        for each in node.parts if isinstance(node, Sequential) else (node,):
            if each == EMPTY:
                continue
            if isinstance(each, Literal) and flat and isinstance(flat[-1], Literal):
                flat[-1] = Literal(flat[-1].text + each.text)
            else:
                flat.append(each)
    if not flat:
        return EMPTY
    return flat[0] if len(flat) == 1 else Sequential(tuple(flat))


def alternatives(options: Iterable[Node | str]) -> Node:
    """Returns one of several expressions, each counted once."""
    flat: dict[Node, None] = {}
    for option in options:
        node = Literal(option) if isinstance(option, str) else option
        members = node.options if isinstance(node, Alternatives) else (node,)
        flat.update(dict.fromkeys(members))
    if len(flat) == 1:
        return next(iter(flat))
    return Alternatives(tuple(flat))


def repeated(part: Node, least: int = 0, most: int | None = None) -> Node:
    """Returns an expression several times."""
    if most == 0 or part == EMPTY:
        return EMPTY
    if part == NOTHING:
        return NOTHING if least else EMPTY
    if least == most == 1:
        return part
    return Repeated(part, least, most)


def optional(part: Node) -> Node:
    """Returns an expression or nothing in its place."""
    return repeated(part, 0, 1)


def one_of(characters: CharacterSet) -> Node:
    """Returns one character of a set, which may be empty."""
    if not characters:
        return NOTHING
    first, last = characters.ranges[0]
    is_single = first == last and len(characters.ranges) == 1
    return Literal(chr(first)) if is_single else OneOf(characters)


class Grammar:
    """Rules by name.  The rule ``start`` derives the grammar's texts."""

    def __init__(self) -> None:
        self._rules: dict[str, Node] = {}

    def name(self, hint: str) -> str:
        """Returns the name of a rule that is yet to be set, and reserves it."""
        word = "".join(c if c.isascii() and c.isalnum() else "_" for c in hint)[:24]
        name = f"{word or 'rule'}_{len(self._rules)}"
        self._rules[name] = NOTHING
        return name

    def set(self, name: str, node: Node) -> RuleName:
        """Sets what a rule stands for, and returns a reference to it."""
        self._rules[name] = node
        return RuleName(name)

    def add(self, hint: str, node: Node) -> RuleName:
        """Adds a rule, and returns a reference to it."""
        return self.set(self.name(hint), node)

    def shared(self, name: str, node: Node) -> RuleName:
        """Returns a reference to the rule of this name, which is added once."""
        if name not in self._rules:
            self._rules[name] = node
        return RuleName(name)

    def finished(self, root: Node) -> dict[str, Node] | None:
        """Returns the rules that texts are made of, those that have an end.

        Args:
            root: What the grammar derives.

        Returns:
            The rules by name, first ``start``; None if no text has an end.
        """
        rules = {ROOT: root, **self._rules}
        ending = _ending_rules(rules)
        if ROOT not in ending:
            return None
        kept: dict[str, Node] = {}
        waiting = [ROOT]
        while waiting:
            name = waiting.pop()
            if name in kept:
                continue
            kept[name] = _ending_part(rules[name], ending)
            waiting += _names(kept[name])
        return kept


def _ending_rules(rules: dict[str, Node]) -> set[str]:
    """Returns the names of the rules that derive a text of finite length."""
    users: dict[str, set[str]] = {name: set() for name in rules}
    for name, node in rules.items():
        for used in _names(node):
            users[used].add(name)
    ending: set[str] = set()
    waiting = list(rules)
    while waiting:
        name = waiting.pop()
        if name not in ending and _ends(rules[name], ending):
            ending.add(name)
            waiting += users[name]
    return ending


def _ends(node: Node, ending: set[str]) -> bool:
    if isinstance(node, RuleName):
        return node.name in ending
    if isinstance(node, Sequential):
        return all(_ends(part, ending) for part in node.parts)
    if isinstance(node, Alternatives):
        return any(_ends(option, ending) for option in node.options)
    if isinstance(node, Repeated):
        return node.least == 0 or _ends(node.part, ending)
    return True


def _ending_part(node: Node, ending: set[str]) -> Node:
    """Returns an expression without what has no end."""
    if not _ends(node, ending):
        return NOTHING
    if isinstance(node, Sequential):
        return sequence(*(_ending_part(part, ending) for part in node.parts))
    if isinstance(node, Alternatives):
        parts = (_ending_part(option, ending) for option in node.options)
        return alternatives(part for part in parts if part != NOTHING)
    if isinstance(node, Repeated):
        return repeated(_ending_part(node.part, ending), node.least, node.most)
    return node


def _names(node: Node) -> list[str]:
    if isinstance(node, RuleName):
        return [node.name]
    if isinstance(node, Sequential):
        return [name for part in node.parts for name in _names(part)]
    if isinstance(node, Alternatives):
        return [name for option in node.options for name in _names(option)]
    return _names(node.part) if isinstance(node, Repeated) else []


def lengths(node: Node) -> tuple[int, int | None]:
    """Returns the fewest and the most characters of an expression without rules.

    Returns:
        The most is None if there is no limit.
    """
    assert not isinstance(node, (RuleName, Terminal))
    if isinstance(node, Literal):
        return len(node.text), len(node.text)
    if isinstance(node, OneOf):
        return 1, 1
    if isinstance(node, Sequential):
        return _sum([lengths(part) for part in node.parts])
    if isinstance(node, Alternatives):
        bounds = [lengths(option) for option in node.options]
        most = [high for _, high in bounds]
        return (
            min((low for low, _ in bounds), default=0),
            None if None in most else max((m for m in most if m), default=0),
        )
    assert isinstance(node, Repeated)
    low, high = lengths(node.part)
    unlimited = node.most is None or high is None
    return node.least * low, None if unlimited else node.most * high  # type: ignore[operator]


def _sum(bounds: Sequence[tuple[int, int | None]]) -> tuple[int, int | None]:
    most = 0
    for _, high in bounds:
        if high is None:
            return sum(low for low, _ in bounds), None
        most += high
    return sum(low for low, _ in bounds), most
