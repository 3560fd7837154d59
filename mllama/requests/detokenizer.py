"""Streaming conversion of tokens to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from mllama.requests.stop_strings import StopStringFilter


class StreamingDetokenizer:
    """A decoder of one answer, piece by piece.

    A character whose bytes are spread over several tokens is returned once it is
    complete.  Text ends before the first stop string.

    Args:
        tokenizer: A fast tokenizer of transformers.
        stop: Strings that end the answer and are not part of it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop_filter = StopStringFilter(stop)
        self._ids: list[int] = []
        self._decoded = 0

    @property
    def stop(self) -> str | None:
        """Returns the stop string that has ended the answer, if one has."""
        return self._stop_filter.found

    def push(self, token_ids: Sequence[int], *, may_stop: bool = True) -> str:
        """Adds tokens and returns the text that is now certain to be in the answer.

        Args:
            token_ids: The tokens.
            may_stop: Whether stop strings in their text count.
        """
        pieces = []
        for token_id in token_ids:
            self._ids.append(token_id)
            pieces.append(self._stream.step(self._tokenizer, token_id) or "")
        text = "".join(pieces)
        self._decoded += len(text)
        return self._stop_filter.push(text) if may_stop else text

    def finish(self) -> str:
        """Returns the rest of the text after the last token."""
        # Bytes of an incomplete character become replacement characters.
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return (
            self._stop_filter.push(text[self._decoded :]) + self._stop_filter.finish()
        )
