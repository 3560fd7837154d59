"""Grammars over the tokens of a model, computed by llguidance."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from mllama.grammars.reader_process import Vocabulary
from mllama.max_model.special_tokens import without_special_tokens
from mllama.requests.answer_matcher import (
    AnswerMatcher,
    GrammarError,
    error_reason,
)
from mllama.requests.token_bytes import TokenBytes
from mllama.sampling.state import Bitmask

LIMITS: Final = {
    # About 20 ms to read a grammar, 15 ms for the tokens that may follow, and 50 MB.
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 25_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
"""What one grammar may take of time and memory."""

MAX_KEPT: Final = 32
"""Grammars that are kept for further answers."""

MAX_KEPT_CHARACTERS: Final = 1 << 17
"""Characters of all of them but the last, each of which costs 50 to 110 bytes."""


class _Vocabulary:
    """A vocabulary in llguidance's form."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Any, ends: list[int]) -> None:
        token_bytes = TokenBytes(tokenizer)
        self.eos_token_id = ends[0]
        self.tokens = [token_bytes(token) for token in range(len(tokenizer))]
        self.special_token_ids = sorted(tokenizer.added_tokens_decoder)
        # llguidance chooses the tokens of text that a grammar leaves no choice about.
        # A special token's name in it, such as that of a key, is text.
        self._plain_text = without_special_tokens(tokenizer.backend_tokenizer)

    def __call__(self, text: bytes | str) -> list[int]:
        """Returns the tokens of a text, none of which is a special token."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        ids: list[int] = self._plain_text.encode(text, add_special_tokens=False).ids
        return ids


class TokenGrammars:
    """Reads grammars for a vocabulary.  Threads may share one.

    Args:
        tokenizer: A fast tokenizer of transformers.
        ends: Tokens that end an answer.

    Attributes:
        vocabulary: What grammars can name.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        end_tokens = sorted(ends)
        self._tokenizer = LLTokenizer(
            _Vocabulary(tokenizer, end_tokens),
            n_vocab=len(tokenizer),
            eos_token=end_tokens,
            slices=LLTokenizer.json_slices(),
        )
        self._words = -(-len(tokenizer) // 32)
        self._end_tokens = end_tokens
        self.vocabulary = Vocabulary(
            size=len(tokenizer),
            special={
                token: each.content
                for token, each in tokenizer.added_tokens_decoder.items()
            },
            end=end_tokens[0],
        )
        special = np.zeros(self._words * 32, np.uint8)
        special[sorted(tokenizer.added_tokens_decoder)] = 1
        special[len(tokenizer) :] = 1  # Padding, of which llguidance knows nothing.
        self._text_tokens = _packed(1 - special)
        special[end_tokens] = 0
        self._text_and_ends = _packed(1 - special)
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()

    def check(self, grammar: str, tokens: int) -> None:
        """Tries the begin of one answer.

        Some grammars exceed a limit as soon as they are used, such as one of texts
        that have no end.

        Args:
            grammar: The grammar.
            tokens: The length of the begin.

        Raises:
            GrammarError: If it is no grammar, or exceeds a limit.
        """
        matcher = self.matcher(grammar)
        answer = np.empty(0, np.int64)
        for _ in range(tokens):
            mask = matcher.bitmask(answer)
            allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")
            allowed[self._end_tokens] = 0
            if not allowed.any():
                return
            answer = np.append(answer, allowed.argmax())
        matcher.bitmask(answer)

    def matcher(self, grammar: str) -> AnswerMatcher:
        """Returns the matcher of a new answer.

        Python's lock is free meanwhile.

        Raises:
            GrammarError: If it is no grammar, or exceeds the limits.
        """
        with self._lock:
            kept = self._kept.get(grammar)
            if kept is not None:
                self._kept.move_to_end(grammar)
        if kept is None:
            kept = self._read(grammar)
        return AnswerMatcher(
            kept.deep_copy(),
            lambda: self._read(grammar).deep_copy(),
            self._text_tokens,
            self._text_and_ends,
        )

    def _read(self, grammar: str) -> Any:
        """Reads a grammar and keeps it.

        Returns:
            llguidance's matcher, to be copied.

        Raises:
            GrammarError: If it is no grammar, or exceeds the limits.
        """
        kept = LLMatcher(
            self._tokenizer, grammar, log_level=0, limits=LLParserLimits(**LIMITS)
        )
        if kept.is_error():
            raise GrammarError(error_reason(kept))
        with self._lock:
            self._kept[grammar] = kept
            self._kept.move_to_end(grammar)
            characters = sum(map(len, self._kept)) - len(grammar)
            while len(self._kept) > MAX_KEPT or characters > MAX_KEPT_CHARACTERS:
                oldest, _ = self._kept.popitem(last=False)
                characters -= len(oldest)
        return kept


def _packed(tokens: npt.NDArray[np.uint8]) -> Bitmask:
    return np.packbits(tokens, bitorder="little").view(np.int32)
