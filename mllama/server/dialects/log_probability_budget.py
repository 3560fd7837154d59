"""Bounds the log probabilities that the server keeps for one answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mllama.requests.events import TokenLogprob, count_log_probabilities
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.kept_log_probabilities import current_share

MAX_LOG_PROBABILITIES: Final = 2_000_000
"""The log probabilities of one answer that is no stream.  Each takes 90 bytes until the
answer is complete, and up to 200 more in its JSON: they take 600 MB at most."""


class LogProbabilityBudget:
    """Counts the log probabilities of one answer: those of tokens and of alternatives.

    Those that are kept count among those of all requests until the request ends.

    Args:
        path: The field of the body that asks for them, for messages.
    """

    def __init__(self, path: str = "logprobs") -> None:
        self._path = path
        self._used = 0
        self._share = current_share()

    def foresee(self, tokens: int, alternatives: int | None) -> None:
        """Counts tokens that a request asks for, before the work begins.

        Args:
            tokens: The number of tokens.
            alternatives: How many alternatives each comes with; None if no log
                probabilities are asked for.

        Raises:
            RequestRejected: If they are too many.
        """
        if alternatives is not None:
            self._use(tokens * (alternatives + 1))

    def spend(self, tokens: Iterable[TokenLogprob | None], times: int = 1) -> None:
        """Counts the log probabilities of tokens, which the server keeps from now on.

        Args:
            tokens: The tokens.
            times: How often the answer has them.

        Raises:
            RequestRejected: If they are too many.
            EngineOverloadedError: If those of all requests are too many.
        """
        count = times * count_log_probabilities(tokens)
        self._use(count)
        if count and self._share is not None:
            self._share.keep(count)

    def _use(self, count: int) -> None:
        self._used += count
        if self._used > MAX_LOG_PROBABILITIES:
            raise RequestRejected(
                f"The answer could have more than {MAX_LOG_PROBABILITIES} log "
                "probabilities, those of alternatives included: ask for fewer or "
                "shorter answers and prompts, or fewer alternatives.",
                self._path,
                code="invalid_value",
            )
