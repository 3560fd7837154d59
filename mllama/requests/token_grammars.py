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
from mllama.requests.token_bytes import TokenBytes
from mllama.sampling.state import Bitmask, Tokens

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


class GrammarError(ValueError):
    """A grammar that is wrong or exceeds a limit, or an answer that isn't of it."""


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
            kept = LLMatcher(
                self._tokenizer, grammar, log_level=0, limits=LLParserLimits(**LIMITS)
            )
            if kept.is_error():
                raise GrammarError(_reason(kept))
            with self._lock:
                self._kept[grammar] = kept
                characters = sum(map(len, self._kept)) - len(grammar)
                while len(self._kept) > MAX_KEPT or characters > MAX_KEPT_CHARACTERS:
                    oldest, _ = self._kept.popitem(last=False)
                    characters -= len(oldest)
        return AnswerMatcher(kept.deep_copy(), self._text_tokens, self._text_and_ends)


class AnswerMatcher:
    """Knows which tokens a grammar allows after an answer so far.

    Args:
        matcher: llguidance's matcher, at the answer's begin.
        text_tokens: The tokens of text, packed.
        text_and_ends: These, and the tokens that end an answer.
    """

    def __init__(
        self, matcher: Any, text_tokens: Bitmask, text_and_ends: Bitmask
    ) -> None:
        self._matcher = matcher
        self._text_tokens = text_tokens
        self._text_and_ends = text_and_ends
        self._words = text_tokens.size
        self._answer = np.empty(0, np.int64)
        # The last mask: it shows that a token isn't forced, then the token is chosen.
        self._mask: Bitmask | None = None
        # The thread that runs steps and that of the scheduler choose tokens.
        self._lock = Lock()

    def bitmask(self, answer: Tokens) -> Bitmask:
        """Returns the tokens that may follow an answer so far.

        A step that ran ahead may have been discarded: the answer of a call needs not go
        on with that of the call before.

        Returns:
            ``[words]``, packed as xgrammar does.

        Raises:
            GrammarError: If the answer isn't one of the grammar's, nothing may follow,
                or a limit is exceeded.
        """
        with self._lock:
            if self._mask is not None and np.array_equal(self._answer, answer):
                return self._mask
            self._mask = None
            self._advance(answer)
            mask = np.zeros_like(self._text_tokens)
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            matcher = self._matcher
            # A grammar in Lark can name special tokens.  They aren't text, images have
            # no logits, and one that ends the answer would end it too early.
            mask &= self._text_and_ends if matcher.is_accepting() else self._text_tokens
            # It allows an answer to end where nothing else may follow.
            is_stuck = matcher.is_stopped() and not matcher.is_accepting()
            if is_stuck or not mask.any():
                raise GrammarError(
                    _reason(matcher, "no token can go on, and the answer can't end")
                )
            mask.flags.writeable = False
            self._mask = mask
        return mask

    def forced_token(self, answer: Tokens) -> int | None:
        """Returns the only token that may follow in an answer so far.

        Of text that the grammar leaves no choice about, llguidance allows the
        tokenizer's own tokens only.  Its ``compute_ff_tokens`` returns all of them, but
        they may differ from those allowed one by one: after some of them, the tokenizer
        may split the rest of the text in another way.

        Returns:
            None if several may follow, or if :meth:`bitmask` raises; the sampler asks
            for the mask again.
        """
        try:
            mask = self.bitmask(answer)
        except GrammarError:
            return None
        words = np.flatnonzero(mask)
        if words.size != 1:
            return None
        bits = int(mask[words[0]]) & 0xFFFFFFFF
        if bits & (bits - 1):
            return None
        return int(words[0]) * 32 + bits.bit_length() - 1

    def allowed_count(self, answer: Tokens, tokens: Tokens) -> int:
        """Returns how many of some tokens of text may follow an answer in their order.

        This takes less time than a mask for each of them.

        Args:
            answer: The answer so far.
            tokens: The tokens; one that isn't text ends the count.
        """
        words, bits = np.divmod(tokens, 32)
        with self._lock:
            if not np.array_equal(self._answer, answer):
                self._mask = None
                try:
                    self._advance(answer)
                except GrammarError:
                    return 0  # The sampler raises it again.
            is_text = (words < self._words) & (
                (self._text_tokens[np.minimum(words, self._words - 1)] >> bits) & 1 > 0
            )
            others = np.flatnonzero(~is_text)
            text = tokens[: others[0]] if others.size else tokens
            return int(self._matcher.validate_tokens(text.tolist()))

    def _advance(self, answer: Tokens) -> None:
        """Brings the matcher to the end of an answer."""
        common = _common_length(self._answer, answer)
        matcher = self._matcher
        if common < len(self._answer):
            matcher.rollback(len(self._answer) - common)
        self._answer = answer[:common]
        new = answer[common:].tolist()
        if new and not matcher.consume_tokens(new):
            raise GrammarError(_reason(matcher))
        self._answer = answer.copy()


def _packed(tokens: npt.NDArray[np.uint8]) -> Bitmask:
    return np.packbits(tokens, bitorder="little").view(np.int32)


def _reason(matcher: Any, default: str = "the grammar has ended") -> str:
    """Returns in one line why a matcher is in error."""
    reason: str = matcher.get_error() or default
    return " ".join(reason.split())[:500]


def _common_length(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int:
    """Returns how many tokens two answers begin with alike."""
    shorter = min(len(one), len(other))
    differing = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differing[0]) if differing.size else shorter
