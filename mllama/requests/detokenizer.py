"""Tokens to text as they come: whole characters, and nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from mllama.requests.stop_strings import StopStringFilter


class StreamingDetokenizer:
    """Decodes one answer piece by piece.

    A character whose bytes are spread over several tokens comes out once it is whole.

    Args:
        tokenizer: A fast tokenizer of transformers.
        stop: Strings that end the answer and are not part of it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._guard = StopStringFilter(stop)
        self._ids: list[int] = []
        self._decoded = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._guard.stopped

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that is certain to be part of the answer after these tokens."""
        pieces = []
        for token_id in token_ids:
            self._ids.append(token_id)
            pieces.append(self._stream.step(self._tokenizer, token_id) or "")
        text = "".join(pieces)
        self._decoded += len(text)
        return self._guard.push(text)

    def finish(self) -> str:
        """What is left once no more tokens will come."""
        # Bytes of a character that was never completed, as replacement characters.
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return self._guard.push(text[self._decoded :]) + self._guard.finish()
