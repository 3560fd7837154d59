"""Prompt lookup: an answer goes on as its prompt or itself did at a like place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mllama.runtime.speculation.ngram_index import LONGEST, NgramIndex
from mllama.runtime.speculation.proposer import Guesses, Prospect

_NONE: Final = np.empty(0, np.int64)


class PromptLookup:
    """Proposes the tokens that followed the last ones where they occurred before.

    It needs no model.  Texts that quote, edit or extract from their prompt have many
    such places, others have few.  It proposes as many tokens as match: a longer match
    is likelier to go on.
    """

    def __init__(self) -> None:
        self._indexes: dict[Any, NgramIndex] = {}

    def prospects(self, contexts: Sequence[Any]) -> list[Prospect]:
        """Returns that as many tokens may be guessed as match."""
        return [Prospect(LONGEST)] * len(contexts)

    def propose(self, contexts: Sequence[Any], limits: Sequence[int]) -> list[Guesses]:
        """Returns guesses; see :class:`~mllama.runtime.speculation.proposer.Proposer`.

        A text that repeats itself is guessed to go on so.
        """
        return [
            self._guess(context, limit) if limit else _NONE
            for context, limit in zip(contexts, limits, strict=True)
        ]

    def release(self, request_id: Any) -> None:
        """Forgets a request; it may be called twice."""
        self._indexes.pop(request_id, None)

    def _guess(self, context: Any, limit: int) -> Guesses:
        tokens = context.tokens.all
        index = self._indexes.get(context.request_id)
        if index is None:
            index = self._indexes[context.request_id] = NgramIndex(tokens)
        else:
            index.grow(tokens)
        place, length = index.longest_match(tokens)
        if not length:
            return _NONE
        count = min(limit, length)
        # Where the match overlaps the end, the text has a period.
        return np.resize(tokens[place : place + count], count)
