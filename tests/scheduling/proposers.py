"""Proposers whose success is known, and a budget that always asks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mllama.max_model.sampling_context import prompt_length_of
from mllama.runtime.speculation.guarded_proposer import GuardedProposer
from mllama.runtime.speculation.proposer import Guesses, Prospect
from mllama.runtime.speculation.speculation import Speculation

from .harness import Scheduled

NONE = np.empty(0, np.int64)
MOST = 1000
"""More tokens than any step may guess."""


class FixedBudget:
    """Allows as many guesses in each step, whatever becomes of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.released: list[Any] = []

    def limits(
        self,
        requests: Sequence[Any],
        kinds: Sequence[int],
        most: Sequence[int],
        tokens: int,
    ) -> list[int]:
        """Returns the same limit for each request, as far as it has guesses."""
        del requests, kinds, tokens
        return [min(self.limit, each) for each in most]

    def pays_to_catch_up(self, *_: Any) -> bool:
        """Returns that it does."""
        return True

    def observe(self, request: Any, kind: int, accepted: int, guessed: int) -> None:
        """Learns nothing."""

    def release(self, request: Any) -> None:
        """Notes a request that is forgotten."""
        self.released.append(request)


class AnyNumber:
    """A proposer that could guess as many tokens as it is asked for."""

    def prospects(self, contexts: Sequence[Any]) -> list[Prospect]:
        """Returns that no limit is its own."""
        return [Prospect(MOST)] * len(contexts)

    def release(self, request_id: Any) -> None:
        """Does nothing: a preempted request comes back."""


class Oracle(AnyNumber):
    """Knows the answers, and errs in some tokens.

    Attributes:
        answers: The answers of requests by their ids; others get no guesses.
        wrong: The share of guesses that are wrong.
        vocabulary: Number of tokens that a wrong guess is taken from.
    """

    def __init__(self, wrong: float, vocabulary: int, seed: int = 0) -> None:
        self.answers: dict[Any, list[int]] = {}
        self.wrong = wrong
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(seed)

    def propose(self, contexts: Sequence[Any], limits: Sequence[int]) -> list[Guesses]:
        """Returns the tokens that follow in the answers, some of them wrong."""
        return [
            self._guess(context, limit)
            for context, limit in zip(contexts, limits, strict=True)
        ]

    def _guess(self, context: Any, limit: int) -> Guesses:
        answer = self.answers.get(context.request_id, [])
        start = len(context.tokens) - prompt_length_of(context)
        right = np.array(answer[start : start + limit], np.int64)
        errs = self._random.random(right.size) < self.wrong
        shift = self._random.integers(1, self._vocabulary, right.size)
        return np.where(errs, (right + shift) % self._vocabulary, right)


class Noise(AnyNumber):
    """Guesses tokens at random, those of the text so far among them."""

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(seed)

    def propose(self, contexts: Sequence[Any], limits: Sequence[int]) -> list[Guesses]:
        """Returns random tokens, images among them, of a random number."""
        guesses = []
        for context, limit in zip(contexts, limits, strict=True):
            count = int(self._random.integers(0, limit + 1))
            if self._random.random() < 0.5:
                guesses.append(self._random.choice(context.tokens.all, count))
            else:
                guesses.append(self._random.integers(0, self._vocabulary + 1, count))
        return guesses


def always_guess(scheduled: Scheduled, proposer: Any, limit: int = 4) -> Speculation:
    """Makes a scheduler check a proposer's guesses in each step.

    Returns:
        What it guesses with.
    """
    speculation = scheduled.speculation
    assert speculation is not None
    speculation._proposer = GuardedProposer(proposer)
    speculation.budget = FixedBudget(limit)  # type: ignore[assignment]
    speculation._steps_to_skip = 0  # Of a proposer before, which had no guesses.
    return speculation
