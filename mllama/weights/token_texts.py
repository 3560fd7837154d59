"""Compares the tokenizers of two models: what each token's id means.

A model that guesses tokens for another reads and writes their ids, so that the way in
which text is split doesn't matter here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gguf import TokenType

from mllama.errors import CheckpointError, quoted
from mllama.weights.gguf.file import GgufFile

_RESERVED: Final = "reserved"
"""Part of the names of special tokens that no text and no prompt has."""

_FILE: Final = "tokenizer.json"


@dataclass(frozen=True)
class TokenTexts:
    """The texts of a vocabulary's tokens.

    Attributes:
        ordinary: Texts by id, in the tokenizer's own alphabet.
        special: Those of the tokens that are added to a vocabulary, such as the marks
            of turns.
    """

    ordinary: Mapping[int, str]
    special: Mapping[int, str]

    def difference(self, other: TokenTexts, vocabulary: int) -> int | None:
        """Returns the first token with another meaning for the other model, or None.

        Special tokens may differ where one of the models lacks a token or has only
        reserved its id.

        Args:
            other: The tokens of the other model.
            vocabulary: The number of ids to compare.
        """
        for token in range(vocabulary):
            mine, theirs = self.ordinary.get(token), other.ordinary.get(token)
            if mine != theirs:
                return token
            names = self.special.get(token), other.special.get(token)
            if names[0] != names[1] and not any(
                name is None or _RESERVED in name for name in names
            ):
                return token
        return None

    def text(self, token: int) -> str:
        """Returns what a message calls a token."""
        text = self.ordinary.get(token, self.special.get(token))
        return "no token" if text is None else quoted(text)


def read_token_texts(directory: Path) -> TokenTexts:
    """Reads ``tokenizer.json`` of a checkpoint.

    Raises:
        CheckpointError: If there is none, or it isn't of a kind with a vocabulary.
    """
    path = directory / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = _by_text(content["model"]["vocab"])
        added = {
            int(token["id"]): str(token["content"])
            for token in content.get("added_tokens") or []
        }
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory} has no {_FILE}, without which tokenizers can't be compared"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"can't read {path}: {reason}") from error
    ordinary = {i: text for text, i in vocabulary.items() if i not in added}
    return TokenTexts(ordinary, added)


def _by_text(vocabulary: Any) -> dict[str, int]:
    """Returns the ids of tokens by text; a unigram model lists texts with scores."""
    if isinstance(vocabulary, list):
        return {str(entry[0]): index for index, entry in enumerate(vocabulary)}
    return {str(text): int(index) for text, index in vocabulary.items()}


def gguf_token_texts(file: GgufFile) -> TokenTexts:
    """Reads the vocabulary in ggml's keys.

    Raises:
        CheckpointError: If there is none.
    """
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(kinds, list):
        raise CheckpointError(
            f"{file.path} has no vocabulary (tokenizer.ggml.tokens and token_type), "
            "without which tokenizers can't be compared"
        )
    if len(tokens) != len(kinds):
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.token_type is of {len(kinds)} tokens, but "
            f"tokenizer.ggml.tokens has {len(tokens)}"
        )
    special = {
        index: str(text)
        for index, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    }
    ordinary = {i: str(text) for i, text in enumerate(tokens) if i not in special}
    return TokenTexts(ordinary, special)
