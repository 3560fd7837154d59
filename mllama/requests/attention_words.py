"""Tokens as text, and the words that they make."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final

import numpy as np
import regex

from mllama.requests.attention import ImageMaps
from mllama.requests.map_entropy import map_entropy
from mllama.requests.token_bytes import TokenBytes

# Scripts that put no spaces between words have a word for each character.
_WORD: Final = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:['\u2019.\-][\p{L}\p{N}][\p{L}\p{N}\p{M}]*)*"
)


@dataclass(frozen=True)
class AttentionToken:
    """A token that has maps.

    Attributes:
        id: The token.
        text: Its text, in which parts of characters are escaped.
        is_prompt: Whether it belongs to the prompt.
        is_special: Whether it is a special token.
    """

    id: int
    text: str
    is_prompt: bool
    is_special: bool


@dataclass(frozen=True)
class AttentionWord:
    """A word.

    Attributes:
        text: The word.
        start: Index of its first token among those that have maps.
        end: One past the index of its last token.
        is_prompt: Whether it belongs to the prompt.
        at: Index of the token whose map is the word's: the clearest among those of the
            queries from the one that predicts its first token to the one at its last.
    """

    text: str
    start: int
    end: int
    is_prompt: bool
    at: int


def tokens_and_words(
    token_ids: Sequence[int], prompt: int, tokenizer: Any
) -> tuple[list[AttentionToken], list[AttentionWord]]:
    """Returns tokens with their texts, and the words in them.

    Args:
        token_ids: The tokens that have maps.
        prompt: How many of them belong to the prompt.
        tokenizer: The model's fast tokenizer.
    """
    bytes_of = TokenBytes(tokenizer)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    contents = [bytes_of(token_id) for token_id in token_ids]
    tokens = [
        AttentionToken(
            token_id,
            content.decode(errors="backslashreplace"),
            index < prompt,
            token_id in special,
        )
        for index, (token_id, content) in enumerate(
            zip(token_ids, contents, strict=True)
        )
    ]
    words: list[AttentionWord] = []
    for start, end in _stretches(tokens):
        words += _words(contents[start:end], start, is_prompt=tokens[start].is_prompt)
    return tokens, words


def _stretches(tokens: Sequence[AttentionToken]) -> list[tuple[int, int]]:
    """Returns ranges of tokens that are text: no word spans two of them."""
    found: list[tuple[int, int]] = []
    start = 0
    for index, token in enumerate(tokens):
        if token.is_special or (
            index and token.is_prompt != tokens[index - 1].is_prompt
        ):
            found.append((start, index))
            start = index + token.is_special
    return [(a, b) for a, b in [*found, (start, len(tokens))] if a < b]


def _words(
    contents: Sequence[bytes], first: int, *, is_prompt: bool
) -> list[AttentionWord]:
    # Bytes that are no text keep their number when they are encoded again.
    text = b"".join(contents).decode(errors="surrogateescape")
    starts = [0, *accumulate(map(len, contents))]
    words = []
    position = last = 0
    for match in _WORD.finditer(text):
        position += len(text[last : match.start()].encode(errors="surrogateescape"))
        last = match.start()
        size = len(match.group().encode())
        words.append(
            AttentionWord(
                match.group(),
                first + bisect_right(starts, position) - 1,
                first + bisect_right(starts, position + size - 1),
                is_prompt,
                first + bisect_right(starts, position) - 1,
            )
        )
    return words


def with_clearest_maps(
    words: Sequence[AttentionWord], images: Sequence[ImageMaps]
) -> list[AttentionWord]:
    """Returns words that have the clearest of their maps.

    Args:
        words: The words.
        images: The maps of all tokens in each image.
    """
    if not images or not words:
        return list(words)
    # Where a token looks in all images together.
    flat = [image.maps.reshape(len(image.maps), -1) for image in images]
    entropy = map_entropy(np.concatenate(flat, axis=1))
    return [
        # The token after the word is predicted by the query at the word's last token.
        replace(
            word, at=word.start + int(np.argmin(entropy[word.start : word.end + 1]))
        )
        for word in words
    ]
