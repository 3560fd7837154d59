"""Special tokens: found where a template wrote them, never in the text of users."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from tokenizers import Encoding, Tokenizer

_MARKERS: Final = [
    chr(point) for point in (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF900))
]
"""Characters that mark text: noncharacters, which no text should have, and then those
for private use.  Templates neither trim them nor change their case."""


_SHORT: Final = 4000
"""Characters that are encoded before the tokenizer's threads would have begun."""


def without_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a tokenizer for which all text is text; it shares the vocabulary."""
    plain = Tokenizer(tokenizer.model)
    plain.normalizer = tokenizer.normalizer
    plain.pre_tokenizer = tokenizer.pre_tokenizer
    return plain


class SpecialTokens:
    """The special tokens of a tokenizer, in texts that a chat template has rendered.

    Every text from outside is marked before the template sees it: a marker stands
    before each character that begins a special token.  What is marked in the rendered
    prompt is text, and what is not has been written by the template.  Tokens that are
    added to the vocabulary without being called special are treated in the same way.

    Args:
        tokenizer: The tokenizer.  It is not changed, and may be used by other threads.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens = {
            token.content: (token_id, token)
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        # The longest first: the tokenizer takes the longest that begins at a place.
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        first = "".join(sorted({re.escape(content[0]) for content in self._tokens}))
        self._first_character = re.compile(f"[{first}]" if first else r"(?!)")

    def __getstate__(self) -> dict[str, Any]:
        """Returns what other processes need; the encoder of plain text is made anew."""
        return {k: v for k, v in self.__dict__.items() if k != "_plain_text"}

    @cached_property
    def _plain_text(self) -> Tokenizer:
        return without_special_tokens(self._tokenizer)

    def mark(self, value: Any, marker: str) -> Any:
        """Returns plain data with its strings marked, keys of mappings included."""
        if isinstance(value, str):
            return self._first_character.sub(lambda match: marker + match[0], value)
        if isinstance(value, Mapping):
            return {
                self.mark(key, marker): self.mark(item, marker)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.mark(item, marker) for item in value]
        return value

    def split(self, text: str, marker: str) -> Iterator[tuple[str, int | None]]:
        """Yields the pieces of a rendered prompt: text, and the special token after it.

        Args:
            text: The prompt.  Markers are removed from its pieces.
            marker: The marker.

        Yields:
            A piece, which may be empty, and the id of the special token that ends it;
            None after the last.
        """
        begin = position = 0
        while (match := self._pattern.search(text, position)) is not None:
            start, end = match.span()
            token_id, token = self._tokens[match[0]]
            if text[start - 1 : start] == marker or (
                token.single_word and not _is_word(text, start, end)
            ):
                position = start + 1
                continue
            piece = text[begin:start]
            yield (
                (piece.rstrip() if token.lstrip else piece).replace(marker, ""),
                token_id,
            )
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip())
            begin = position = end
        yield text[begin:].replace(marker, ""), None

    def encode(self, text: str, marker: str) -> list[int]:
        """Returns the tokens of a rendered prompt, in which marked text is text."""
        pieces = list(self.split(text, marker))
        encodings = iter(self._encode_plain([piece for piece, _ in pieces if piece]))
        tokens: list[int] = []
        for piece, token_id in pieces:
            if piece:
                tokens += next(encodings).ids
            if token_id is not None:
                tokens.append(token_id)
        return tokens

    def count(self, text: str) -> int:
        """Returns the number of tokens of a text, in which special tokens are text."""
        return sum(len(encoding) for encoding in self._encode_plain([text]))

    def _encode_plain(self, texts: list[str]) -> list[Encoding]:
        if sum(map(len, texts)) <= _SHORT:
            return [self._plain_text.encode(t, add_special_tokens=False) for t in texts]
        return self._plain_text.encode_batch_fast(texts, add_special_tokens=False)


def strings_in(value: Any) -> Iterator[str]:
    """Yields the strings of plain data, keys of mappings included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


def unused_characters(strings: Iterable[str], count: int) -> list[str] | None:
    """Returns characters for markers that no string has, JSON's escapes included.

    Returns:
        The characters; None if the strings use too many of them.
    """
    found: list[str] = []
    joined = "\n".join(strings)
    lowered = joined.lower()
    for character in _MARKERS:
        if character not in joined and escaped(character) not in lowered:
            found.append(character)
        if len(found) == count:
            return found
    return None


def escaped(character: str) -> str:
    """Returns a character as JSON escapes it."""
    return f"\\u{ord(character):04x}"


def _is_word(text: str, start: int, end: int) -> bool:
    around = text[max(start - 1, 0) : start], text[end : end + 1]
    return not any(character.isalnum() or character == "_" for character in around)
