"""Grammars in llama.cpp's GBNF, which vLLM and xgrammar read too.

A rule goes on until the next one begins, over several lines too, as in xgrammar.  Each
character is a terminal, so that the grammar is read as it stands: no terminal is longer
than another in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mllama.grammars.characters import ALL, CharacterSet
from mllama.grammars.nodes import (
    Grammar,
    Node,
    RuleName,
    alternatives,
    one_of,
    repeated,
    sequence,
    terminal,
)

ROOT: Final = "root"
"""The rule of which a grammar's texts are."""

MAX_REPEATS: Final = 10_000
"""The most repetitions of an expression that can be counted."""

_BEGIN: Final = re.compile(r"^[ \t]*[\w-]+\s*::=", re.MULTILINE)
_TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
    |(?P<rule>[A-Za-z0-9_-]+)\s*::=
    |(?P<name>[A-Za-z0-9_-]+)
    |"(?P<text>(?:[^"\\]|\\.)*)"
    |\[(?P<set>(?:[^\]\\]|\\.)*)\]
    |\{\s*(?P<least>\d{1,9})\s*(?P<range>,\s*(?P<most>\d{1,9})?\s*)?\}
    |(?P<ahead>\(\s*=)
    |(?P<sign>[|()*+?.])""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|(.)", re.DOTALL
)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_SIGNS: Final[dict[str, tuple[int, int | None]]] = {
    "*": (0, None),
    "+": (1, None),
    "?": (0, 1),
}


class GbnfError(ValueError):
    """A grammar that is wrong."""


def is_gbnf(source: str) -> bool:
    """Returns True for a grammar that defines a rule as GBNF does."""
    return _BEGIN.search(source) is not None


def gbnf_rules(source: str) -> dict[str, Node] | None:
    """Returns a grammar's rules.

    Returns:
        The rules by name, of which ``start`` derives the texts; None if there is no
        text that has an end.

    Raises:
        GbnfError: If the grammar is wrong, with the line.
    """
    grammar = Grammar()
    tokens = list(_tokens(source))
    names: dict[str, str] = {}
    for token in tokens:
        if token.kind == "rule":
            if token.text in names:
                raise token.error(f"defines {token.text} again")
            names[token.text] = grammar.name(f"r_{token.text.lower()}")
    if ROOT not in names:
        raise GbnfError(f"has no rule {ROOT}")
    parser = _Parser(tokens, names)
    while parser.kind:
        name = parser.next()
        if name.kind != "rule":
            raise name.error(f"has {name.text!r} before the first rule")
        grammar.set(names[name.text], parser.options())
        if parser.kind not in ("", "rule"):
            left = parser.next()
            raise left.error(f"has {left.text!r} without an expression before it")
    return grammar.finished(RuleName(names[ROOT]))


@dataclass(frozen=True)
class _Token:
    """A unit of a grammar.

    Attributes:
        kind: The name of its group, or the sign itself.
        text: What it is, or has within its quotes or brackets.
        line: The number of its line.
        times: How often at least and at most, of the kind ``least``.
    """

    kind: str
    text: str
    line: int
    times: tuple[int, int | None] = (1, 1)

    def error(self, reason: str) -> GbnfError:
        return GbnfError(f"{reason}, in line {self.line}")


def _tokens(source: str) -> Iterator[_Token]:
    place, line = 0, 1
    while place < len(source):
        match = _TOKEN.match(source, place)
        if match is None:
            raise GbnfError(f"has a wrong {source[place]!r}, in line {line}")
        kind, text = next((k, v) for k, v in match.groupdict().items() if v is not None)
        if kind == "ahead":
            raise GbnfError(f"has a look-ahead in line {line}, which is not supported")
        if kind == "least":
            yield _Token("times", match[0], line, _times(match, line))
        elif kind != "space":
            yield _Token(text if kind == "sign" else kind, text, line)
        line += source.count("\n", place, match.end())
        place = match.end()


def _times(match: re.Match[str], line: int) -> tuple[int, int | None]:
    least = int(match["least"])
    most: int | None = least
    if match["range"] is not None:
        most = None if match["most"] is None else int(match["most"])
    if max(least, most or 0) > MAX_REPEATS:
        raise GbnfError(
            f"repeats something more than {MAX_REPEATS} times, in line {line}"
        )
    if most is not None and most < least:
        raise GbnfError(f"has a wrong {match[0]!r}, in line {line}")
    return least, most


class _Parser:
    """Reads expressions from tokens.

    Args:
        tokens: The tokens.
        names: The names of the rules by those that the grammar has for them.
    """

    def __init__(self, tokens: list[_Token], names: dict[str, str]) -> None:
        self._tokens = tokens
        self._names = names
        self._place = 0

    @property
    def kind(self) -> str:
        """The kind of the next token; empty at the end."""
        at_end = self._place == len(self._tokens)
        return "" if at_end else self._tokens[self._place].kind

    def next(self) -> _Token:
        """Returns the next token and goes on."""
        self._place += 1
        return self._tokens[self._place - 1]

    def options(self) -> Node:
        """Reads alternatives, any of which may be empty."""
        found = [self._sequence()]
        while self.kind == "|":
            self.next()
            found.append(self._sequence())
        return alternatives(found)

    def _sequence(self) -> Node:
        parts = []
        while self.kind in ("name", "text", "set", "(", "."):
            part = self._unit(self.next())
            while self.kind in ("times", *_SIGNS):
                token = self.next()
                least, most = _SIGNS.get(token.kind, token.times)
                part = repeated(part, least, most)
            parts.append(part)
        return sequence(*parts)

    def _unit(self, token: _Token) -> Node:
        if token.kind == "name":
            if token.text not in self._names:
                raise token.error(f"has no rule {token.text}")
            return RuleName(self._names[token.text])
        if token.kind == "text":
            return sequence(*(terminal(each) for each, _ in _characters(token)))
        if token.kind == ".":
            return terminal(one_of(ALL))
        if token.kind == "set":
            return terminal(one_of(_set(token)))
        part = self.options()
        if self.kind != ")":
            raise token.error("has a ( without a )")
        self.next()
        return part


def _characters(token: _Token) -> list[tuple[str, bool]]:
    """Returns the characters of a token, and whether each is escaped."""
    found = []
    for match in _CHARACTER.finditer(token.text):
        code, escaped, plain = match[1] or match[2] or match[3], match[4], match[5]
        if plain is not None:
            character = plain
        elif code is not None:
            if int(code, 16) > 0x10FFFF or 0xD800 <= int(code, 16) < 0xE000:
                raise token.error(f"has {match[0]}, which is no character")
            character = chr(int(code, 16))
        elif escaped in _ESCAPES or not escaped.isalnum():
            character = _ESCAPES.get(escaped, escaped)
        else:
            raise token.error(f"has an unknown escape {match[0]}")
        found.append((character, plain is None))
    return found


def _set(token: _Token) -> CharacterSet:
    """Returns the characters of a set: single ones, and ranges of them."""
    characters = _characters(token)
    negates = characters[:1] == [("^", False)]
    rest = characters[negates:]
    ranges = []
    while rest:
        first = last = ord(rest[0][0])
        if len(rest) > 2 and rest[1] == ("-", False):
            last, rest = ord(rest[2][0]), rest[2:]
        if last < first:
            raise token.error(f"has the wrong range {chr(first)}-{chr(last)}")
        ranges.append((first, last))
        rest = rest[1:]
    found = CharacterSet.of(ranges)
    return ALL - found if negates else found
