"""Walks grammars token by token, as a model that likes every token alike would."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np

from mllama.demo_model import MODEL_PATH
from mllama.grammars.convert import FormatKind, format_grammar
from mllama.requests.answer_matcher import (
    AnswerMatcher,
)
from mllama.requests.token_grammars import (
    TokenGrammars,
)


@cache
def demo_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(MODEL_PATH)


@cache
def demo_grammars() -> TokenGrammars:
    tokenizer = demo_tokenizer()
    ends = [tokenizer.convert_tokens_to_ids("<|eot_id|>")]
    return TokenGrammars(tokenizer, ends)


def end_token() -> int:
    token: int = demo_tokenizer().convert_tokens_to_ids("<|eot_id|>")
    return token


RUNAWAY_GRAMMAR = "\n".join(
    [
        "root ::= r0",
        *(f'r{number} ::= r{number + 1} r{number + 1} | "b"' for number in range(40)),
        'r40 ::= "a"',
    ]
)
"""A grammar that exceeds a limit once an answer has some 28 times ``b``."""


def only_b() -> dict[str, float]:
    """Returns a ``logit_bias`` by which an answer has ``b`` wherever it may."""
    (token,) = _encoded("b")
    return {str(token): 100.0}


class Format:
    """A format's grammar over the demo model's tokens."""

    def __init__(self, kind: FormatKind, source: Any, *, strict: bool = False) -> None:
        text = source if isinstance(source, str) else json.dumps(source)
        self.grammar = format_grammar(kind, text, is_strict=strict, path="format")
        self._grammars = demo_grammars()

    def matcher(self) -> AnswerMatcher:
        return self._grammars.matcher(self.grammar)

    def accepts(self, text: str) -> bool:
        """Returns True if an answer may be this text."""
        return self.accepts_tokens([*_encoded(text), end_token()])

    def accepts_beginning(self, text: str) -> bool:
        """Returns True if an answer may begin with this text."""
        matcher, tokens = self.matcher(), _encoded(text)
        for position, token in enumerate(tokens):
            options = allowed(matcher, tokens[:position])
            if token not in options:
                # Of text without an alternative, only the usual tokens are allowed.
                # One of these may go beyond the end.
                rest = demo_tokenizer().decode(tokens[position:])
                return any(
                    demo_tokenizer().decode([each]).startswith(rest) for each in options
                )
        return True

    def accepts_tokens(self, tokens: list[int]) -> bool:
        matcher = self.matcher()
        for position, token in enumerate(tokens):
            if token not in allowed(matcher, tokens[:position]):
                return False
        return True

    def walk(self, seed: int, most: int = 400) -> str | None:
        """Returns a random text; None if it isn't at its end after so many tokens.

        Later tokens that end the text, or parts of it, are preferred.
        """
        generator = random.Random(seed)
        matcher, tokens = self.matcher(), list[int]()
        while len(tokens) < most:
            options = allowed(matcher, tokens)
            if end_token() in options and (
                len(options) == 1 or generator.random() < 0.3 + len(tokens) / most
            ):
                return demo_tokenizer().decode(tokens)  # type: ignore[no-any-return]
            options = [each for each in options if each != end_token()]
            closing = [each for each in options if each in _closing()]
            if closing and generator.random() < 0.2 + len(tokens) / most:
                options = closing
            tokens.append(generator.choice(options))
        return None


@cache
def _closing() -> frozenset[int]:
    """Returns tokens that close strings and containers."""
    tokenizer = demo_tokenizer()
    return frozenset(
        token
        for token in range(len(tokenizer))
        if tokenizer.decode([token]) in ('"', "]", "}", '"}', '"]', "null")
    )


def _encoded(text: str) -> list[int]:
    ids: list[int] = demo_tokenizer().encode(
        text, add_special_tokens=False, split_special_tokens=True
    )
    assert demo_tokenizer().decode(ids) == text
    return ids


def allowed(matcher: AnswerMatcher, tokens: list[int]) -> list[int]:
    """Returns the tokens that may follow."""
    mask = matcher.bitmask(np.array(tokens, np.int64))
    return np.flatnonzero(
        np.unpackbits(mask.view(np.uint8), bitorder="little")
    ).tolist()


class UndecidedError(Exception):
    """Too many orders of properties have been tried."""


class AcceptedTexts:
    """Texts of values that a format accepts, in the form that docs/api.md describes.

    Properties may come in any order that a schema names.  There are more orders than
    can be tried, so that each text is given up as soon as its beginning is refused.

    Args:
        made: The format.
        names: Names of properties, of which those of a schema come first, in order.
        has_exponents: Whether numbers may have an exponent, as those without bounds.
    """

    def __init__(
        self, made: Format, names: Sequence[str], *, has_exponents: bool
    ) -> None:
        self._made = made
        self._rank = {name: number for number, name in enumerate(names)}
        self._has_exponents = has_exponents
        self._checks = 0

    def texts(self, value: Any) -> Iterator[str]:
        """Yields the texts of a value.

        Raises:
            UndecidedError: If too many beginnings have been tried.
        """
        return filter(self._made.accepts, self._texts("", value))

    def _texts(self, start: str, value: Any) -> Iterator[str]:
        """Yields a beginning with each text of a value after it."""
        if isinstance(value, dict):
            items = sorted(value.items(), key=lambda item: self._rank_of(item[0]))
            yield from self._with_items(f"{start}{{", items)
        elif isinstance(value, list):
            yield from self._with_entries(f"{start}[", value)
        elif isinstance(value, float) and not self._has_exponents:
            yield from self._possible(start + format(Decimal(repr(value)), "f"))
        else:
            yield from self._possible(start + json.dumps(value, ensure_ascii=False))

    def _rank_of(self, name: str) -> int:
        return self._rank.get(name, len(self._rank))

    def _with_items(
        self, start: str, items: Sequence[tuple[str, Any]], separator: str = ""
    ) -> Iterator[str]:
        if not items:
            yield from self._possible(f"{start}}}")
        for index, (name, value) in enumerate(items):
            key = json.dumps(name, ensure_ascii=False)
            for begun in self._possible(f"{start}{separator}{key}: "):
                for text in self._texts(begun, value):
                    others = [*items[:index], *items[index + 1 :]]
                    yield from self._with_items(text, others, ", ")

    def _with_entries(
        self, start: str, entries: Sequence[Any], separator: str = ""
    ) -> Iterator[str]:
        if not entries:
            yield from self._possible(f"{start}]")
            return
        for text in self._texts(start + separator, entries[0]):
            yield from self._with_entries(text, entries[1:], ", ")

    def _possible(self, text: str) -> Iterator[str]:
        """Yields a text if an answer may begin with it."""
        self._checks += 1
        if self._checks > _MOST_CHECKS:
            raise UndecidedError
        if self._made.accepts_beginning(text):
            yield text


_MOST_CHECKS = 2000


def has_plain_numbers(value: Any) -> bool:
    """Returns True if no number is larger or closer to 0 than the form allows."""
    if isinstance(value, dict):
        return all(map(has_plain_numbers, value.values()))
    if isinstance(value, list):
        return all(map(has_plain_numbers, value))
    if isinstance(value, float):
        return value == 0 or 1e-20 < abs(value) < 1e20
    return not isinstance(value, int) or abs(value) < 10**20
