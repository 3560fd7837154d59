"""Tells when the slots of a request's answers become free."""

from __future__ import annotations

from collections import Counter
from typing import Final

from mllama.requests.events import Event, Finished, Piece

_TOKENS_AHEAD: Final = 2
"""How many tokens before an answer's end the next request is handed to the engine.

The engine computes a step while the tokens of the last one are handed out, and takes
new requests between two steps.  Handed over after the end, a request would miss a step
or two, in which its slot is empty.
"""


class RunningAnswers:
    """The answers to one request, which end soon or late.

    Args:
        max_new_tokens: The length at which each answer ends at the latest; -1 is none.
    """

    def __init__(self, max_new_tokens: int) -> None:
        self._max_new_tokens = max_new_tokens
        self._tokens: Counter[int] = Counter()
        self._over: set[int] = set()

    def is_nearly_over(self, event: Event) -> bool:
        """Returns True once for each answer: when it ends, or is about to.

        Args:
            event: The next event of the request.
        """
        if isinstance(event, Piece):
            tokens = self._tokens[event.choice] + len(event.token_ids)
            self._tokens[event.choice] = tokens
            limit = self._max_new_tokens
            is_over = limit >= 0 and tokens >= limit - _TOKENS_AHEAD
        else:
            is_over = isinstance(event, Finished)
        if not is_over or not isinstance(event, (Piece, Finished)):
            return False
        if event.choice in self._over:
            return False
        self._over.add(event.choice)
        return True
