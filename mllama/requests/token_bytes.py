"""What single tokens stand for, in bytes."""

from __future__ import annotations

from typing import Any


class TokenBytes:
    """Returns the bytes of tokens, which may be parts of characters.

    Args:
        tokenizer: A fast tokenizer of transformers, whose vocabulary is usually
            byte-level.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {
            token_id: token.content.encode()
            for token_id, token in tokenizer.added_tokens_decoder.items()
        }
        self._byte_of = {character: byte for byte, character in _characters().items()}

    def __call__(self, token_id: int) -> bytes:
        """Returns a token's bytes; a special token's name for a special one."""
        if token_id in self._added:
            return self._added[token_id]
        name: str | None = self._tokenizer.convert_ids_to_tokens(token_id)
        if name is None:
            # The model's vocabulary may be padded beyond the tokenizer's.
            return b""
        try:
            return bytes(self._byte_of[character] for character in name)
        except KeyError:
            # A tokenizer of a checkpoint's own code may have another form.
            text: str = self._tokenizer.convert_tokens_to_string([name])
            return text.encode()


def _characters() -> dict[int, str]:
    """Returns the character that stands for each byte in a byte-level vocabulary.

    Printable bytes of Latin-1 stand for themselves; the others are shifted beyond them,
    as in GPT-2's tokenizer.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + index) for index, byte in enumerate(others)
    }
