"""Walks grammars token by token, as a model that likes every token alike would."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cache, partial
from itertools import permutations, product
from typing import Any

import numpy as np

from mllama.demo_model import MODEL_PATH
from mllama.grammars.convert import FormatKind, format_grammar
from mllama.requests.token_grammars import (
    AnswerMatcher,
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


def texts_of(value: Any, names: Sequence[str], *, has_exponents: bool) -> Iterator[str]:
    """Yields the texts of a value in the form that docs/api.md describes.

    Properties may come in any order that a schema names; that of ``names`` comes first.

    Args:
        value: The value.
        names: Names of properties, in the order of the schema.
        has_exponents: Whether numbers may have an exponent, as those without bounds.
    """
    parts_of = partial(texts_of, names=names, has_exponents=has_exponents)
    if isinstance(value, dict):
        rank = {name: number for number, name in enumerate(names)}
        items = sorted(value.items(), key=lambda item: rank.get(item[0], len(rank)))
        for order in permutations(items):
            keys = [json.dumps(key, ensure_ascii=False) for key, _ in order]
            for parts in product(*(list(parts_of(v)) for _, v in order)):
                pairs = map(": ".join, zip(keys, parts, strict=True))
                yield f"{{{', '.join(pairs)}}}"
    elif isinstance(value, list):
        for parts in product(*(list(parts_of(each)) for each in value)):
            yield f"[{', '.join(parts)}]"
    elif isinstance(value, float):
        plain = format(Decimal(repr(value)), "f")
        yield json.dumps(value) if has_exponents else plain
    else:
        yield json.dumps(value, ensure_ascii=False)


def has_plain_numbers(value: Any) -> bool:
    """Returns True if no number is larger or closer to 0 than the form allows."""
    if isinstance(value, dict):
        return all(map(has_plain_numbers, value.values()))
    if isinstance(value, list):
        return all(map(has_plain_numbers, value))
    if isinstance(value, float):
        return value == 0 or 1e-20 < abs(value) < 1e20
    return not isinstance(value, int) or abs(value) < 10**20
