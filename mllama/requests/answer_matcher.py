"""Which tokens a grammar allows after an answer so far."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mllama.sampling.state import Bitmask, Tokens

_LEXER_ERROR: Final = "lexer error"
"""How llguidance's message begins where the lexer has exceeded a limit."""


class GrammarError(ValueError):
    """A grammar that is wrong or exceeds a limit, or an answer that isn't of it."""


class AnswerMatcher:
    """Knows which tokens a grammar allows after an answer so far.

    llguidance's matchers share their lexer's states, even if they are deep copies, and
    all of them count towards the limits: those of other answers, and of guesses that
    were wrong.  A matcher whose lexer fails is therefore replaced by one that has no
    states yet, and only what fails there is an error.

    Args:
        matcher: llguidance's matcher, at the answer's begin.
        renewed: Returns the same, made anew.
        text_tokens: The tokens of text, packed.
        text_and_ends: These, and the tokens that end an answer.
    """

    def __init__(
        self,
        matcher: Any,
        renewed: Callable[[], Any],
        text_tokens: Bitmask,
        text_and_ends: Bitmask,
    ) -> None:
        self._matcher = matcher
        self._renewed = renewed
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
            try:
                mask = self._compute_mask(answer)
            except GrammarError as error:
                if not str(error).startswith(_LEXER_ERROR):
                    raise
                self._matcher = self._renewed()
                self._answer = answer[:0]
                mask = self._compute_mask(answer)
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
                    return 0  # The sampler finds it, too.
            is_text = (words < self._words) & (
                (self._text_tokens[np.minimum(words, self._words - 1)] >> bits) & 1 > 0
            )
            others = np.flatnonzero(~is_text)
            text = tokens[: others[0]] if others.size else tokens
            return int(self._matcher.validate_tokens(text.tolist()))

    def _compute_mask(self, answer: Tokens) -> Bitmask:
        """Returns the tokens that may follow an answer, or raises a GrammarError."""
        self._advance(answer)
        mask = np.zeros_like(self._text_tokens)
        matcher = self._matcher
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        # A grammar in Lark can name special tokens.  They aren't text, images have no
        # logits, and one that ends the answer would end it too early.
        mask &= self._text_and_ends if matcher.is_accepting() else self._text_tokens
        # It allows an answer to end where nothing else may follow.
        is_stuck = matcher.is_stopped() and not matcher.is_accepting()
        if is_stuck or not mask.any():
            raise GrammarError(
                error_reason(matcher, "no token can go on, and the answer can't end")
            )
        return mask

    def _advance(self, answer: Tokens) -> None:
        """Brings the matcher to the end of an answer."""
        common = _common_length(self._answer, answer)
        matcher = self._matcher
        if common < len(self._answer):
            matcher.rollback(len(self._answer) - common)
        self._answer = answer[:common]
        new = answer[common:].tolist()
        if new and not matcher.consume_tokens(new):
            raise GrammarError(error_reason(matcher))
        self._answer = answer.copy()


def error_reason(matcher: Any, default: str = "the grammar has ended") -> str:
    """Returns in one line why a matcher is in error."""
    reason: str = matcher.get_error() or default
    return " ".join(reason.split())[:500]


def _common_length(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int:
    """Returns how many tokens two answers begin with alike."""
    shorter = min(len(one), len(other))
    differing = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differing[0]) if differing.size else shorter
