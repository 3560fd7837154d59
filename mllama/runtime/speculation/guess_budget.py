"""How many tokens to guess: as many as pay, by their success and the steps' times."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any, Final

from mllama.runtime.speculation.proposer import Prospect
from mllama.runtime.speculation.step_times import StepTimes

MAX_GUESSES: Final = 8
"""Guessed tokens of a request in a step."""

MAX_STEP_TOKENS: Final = 64
"""Tokens of a step with guesses: beyond, more of them take more time in proportion."""

_LEARNING: Final = 0.1
"""Weight of one guess in a request's rate of accepted ones, after its first ones."""

_POOLED_LEARNING: Final = _LEARNING / 8
"""The same in the rate that later requests begin with."""

_PRIOR_GUESSES: Final = 4
"""Guesses that the first rate of a kind counts for."""

_FIRST_RATES: Final = (0.6, 0.15, 0.25, 0.3, 0.5, 0.6, 0.65, 0.75, 0.95)
"""Rates of accepted guesses before any was checked, by their kind: those of prompt
lookup in edits and repetitions, and in texts that have nothing of their prompts."""

_MARGIN: Final = 1.05
"""Tokens per second that guessing must gain by the estimate, which may be wrong."""

_FIRST_PROBE: Final = 16
_LAST_PROBE: Final = 512
"""Steps without a guess after which one is checked again, each time twice as many."""


_PRIOR_CATCH_UP: Final = 0.02
"""Time of a token that the proposer has missed relative to that of a step, before both
were measured: a model of an eighth of the size prefills a token in a seventh of the
time that decoding takes."""

_PROBE_SHARE: Final = 0.05
"""Share of the time since a guess was checked that catching up for a probe may take."""


class _Pace:
    """What is known of a request.

    Attributes:
        rates: The share of accepted guesses by kind, recent ones above all.
        observed: The number of observed guesses by kind.
        steps: Steps since a guess was checked.
        probe: Steps after which one is checked again.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = list(rates)
        self.observed = [0] * len(rates)
        self.steps = 0
        self.probe = _FIRST_PROBE


class GuessBudget:
    """Divides the guesses of a step among its requests.

    A step's rate is its expected tokens over its expected time.  Guesses are added as
    long as the rate grows, those that are likeliest to be accepted first; none are
    checked unless the rate is then above that without any.

    Guesses have a kind, from 0 to ``MAX_GUESSES``, such as the number of tokens that
    match, if the proposer knows that some are likelier to be right than others.

    Args:
        times: Estimates what a step takes.
        probes: Whether requests that check nothing try again from time to time.
            Without, whoever owns this has to observe guesses that no step checks.
    """

    def __init__(self, times: StepTimes, *, probes: bool) -> None:
        self._times = times
        self._probes = probes
        self._paces: dict[Any, _Pace] = {}
        self._first_rates = list(_FIRST_RATES)

    def limits(
        self,
        requests: Sequence[Any],
        kinds: Sequence[int],
        most: Sequence[int],
        tokens: int,
    ) -> list[int]:
        """Returns how many guesses of each request to check.

        Args:
            requests: Their ids.
            kinds: The kinds of their guesses.
            most: How many guesses each has, or has room for.
            tokens: The tokens that the step computes without guesses.
        """
        limits = [0] * len(requests)
        expected = float(len(requests))
        without = expected / self._times.seconds(tokens, False)
        rates = [
            self._pace(request).rates[kind]
            for request, kind in zip(requests, kinds, strict=True)
        ]
        # A guess that is worth less than its own time hardly pays.
        gains = [
            (-rate, index)
            for index, rate in enumerate(rates)
            if most[index] and rate > self._times.seconds_per_token * without
        ]
        gains.sort()
        best, chosen = without, limits
        while gains and tokens < MAX_STEP_TOKENS:
            gain, index = heappop(gains)
            tokens += 1
            expected -= gain
            limits = limits.copy()
            limits[index] += 1
            rate = expected / self._times.seconds(tokens, True)
            # The constant time of guessing may need several guesses to pay.
            if rate > max(best, without * _MARGIN):
                best, chosen = rate, limits
            elif best > without:
                break
            if limits[index] < min(most[index], MAX_GUESSES):
                heappush(gains, (gain * rates[index], index))
        if self._probes:
            self._add_probes(requests, most, chosen)
        return chosen

    def pays_to_catch_up(
        self,
        request: Any,
        kind: int,
        prospect: Prospect,
        remaining: int,
        requests: int,
        tokens: int,
    ) -> bool:
        """Returns True if a request's guesses may save what the missed tokens take.

        Args:
            request: Its id.
            kind: The kind of its guesses.
            prospect: What the proposer has missed of it.
            remaining: Tokens that its answer may still have.
            requests: Requests of the step that are answered.
            tokens: The tokens that the step computes without guesses.
        """
        if not prospect.missed:
            return True
        step = self._times.seconds(tokens, False)
        cost = prospect.seconds
        if cost is None or not self._times.is_measured:
            cost = prospect.missed * _PRIOR_CATCH_UP * step
        pace = self._pace(request)
        saved = remaining * self._saved_by_token(pace.rates[kind], requests, tokens)
        return cost <= max(saved, _PROBE_SHARE * pace.steps * step)

    def _saved_by_token(self, rate: float, requests: int, tokens: int) -> float:
        """Returns the time that guesses save for each token of a request's answer."""
        step = self._times.seconds(tokens, False)
        saved = expected = 0.0
        for count in range(1, MAX_GUESSES + 1):
            expected += rate**count
            more = self._times.seconds(tokens + count, True) - step
            # The others of the batch wait for the guesses of this one.
            saved = max(saved, (expected * step / requests - more) / (1 + expected))
        return saved

    def observe(self, request: Any, kind: int, accepted: int, guessed: int) -> None:
        """Learns from guesses of a request.

        Args:
            request: Its id.
            kind: Their kind.
            accepted: The first guesses that were right.
            guessed: All of them; those after a wrong one say nothing.
        """
        pace = self._pace(request)
        outcomes = [1.0] * accepted + [0.0] * (accepted < guessed)
        for outcome in outcomes:
            pace.observed[kind] += 1
            share = 1 / (_PRIOR_GUESSES + pace.observed[kind])
            for rates, weight in (
                (pace.rates, max(_LEARNING, share)),
                (self._first_rates, _POOLED_LEARNING),
            ):
                rates[kind] += weight * (outcome - rates[kind])
        pace.steps = 0
        pace.probe = _FIRST_PROBE if accepted else min(2 * pace.probe, _LAST_PROBE)

    def release(self, request: Any) -> None:
        """Forgets a request; it may be called twice."""
        self._paces.pop(request, None)

    def _pace(self, request: Any) -> _Pace:
        pace = self._paces.get(request)
        if pace is None:
            pace = self._paces[request] = _Pace(self._first_rates)
        return pace

    def _add_probes(
        self, requests: Sequence[Any], most: Sequence[int], limits: list[int]
    ) -> None:
        """Lets requests that have long checked nothing check one guess."""
        for index, request in enumerate(requests):
            pace = self._pace(request)
            pace.steps += 1
            if not limits[index] and most[index] and pace.steps >= pace.probe:
                limits[index] = 1
