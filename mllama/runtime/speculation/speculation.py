"""Decides what is guessed in a step, and learns from what was right."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

from mllama.runtime.speculation.guarded_proposer import GuardedProposer
from mllama.runtime.speculation.guess_budget import MAX_GUESSES, GuessBudget
from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.runtime.speculation.guess_rules import (
    NO_GUESSES,
    allowed_guesses,
    forced_guesses,
    is_answering,
    may_force_guesses,
)
from mllama.runtime.speculation.proposer import Guesses, Proposer
from mllama.runtime.speculation.step_times import StepTimes

_OBSERVING_SHARE: Final = 0.005
_MOST_SKIPPED: Final = 16
"""Where nothing is worth a check, looking for guesses takes this share of the time: as
many of the next steps as that needs are left alone, up to so many."""

_KINDLESS: Final = 0
"""Kind of guesses of which the proposer doesn't say how likely they are."""

_FORCED: Final = -1
"""Kind of guesses that a grammar forces, which say nothing about the proposer."""


class Speculation:
    """Guesses the next tokens of a batch's requests, as far as that pays.

    Guesses only fill KV-cache blocks that their requests have, so that they never take
    room from another request.

    Args:
        proposer: Makes the guesses.
        kv_manager: MAX's KV cache.
        page_size: Tokens of a block of it.
        vocab_size: Tokens that can be chosen.
        observes: Whether the proposer is asked for guesses in each step, also where
            none are checked: their rate is then known without the time of checks.  This
            is for one that takes next to no time; the number of its guesses is their
            kind.

    Attributes:
        counts: What was guessed since the start.
        times: The times of steps, which whoever runs them observes.
        is_promising: Whether guesses would pay in the step that was last asked about,
            if the proposer has any.
    """

    def __init__(
        self,
        proposer: Proposer,
        kv_manager: Any,
        *,
        page_size: int,
        vocab_size: int,
        observes: bool,
    ) -> None:
        self._proposer = GuardedProposer(proposer)
        self._kv_manager = kv_manager
        self._page_size = page_size
        self._vocab_size = vocab_size
        self._observes = observes
        # The guess for a request that no step checks: its kind, place and token.
        self._unchecked: dict[Any, tuple[int, int, int]] = {}
        # The kinds of those that the next step checks.
        self._checked: dict[Any, int] = {}
        self._steps_to_skip = 0
        self.is_promising = False
        self.counts = GuessCounts()
        self.times = StepTimes()
        self.budget = GuessBudget(self.times, probes=not observes)

    def guesses(self, contexts: Sequence[Any]) -> list[Guesses] | None:
        """Returns guesses for a batch, whose requests have all of their tokens.

        Args:
            contexts: The requests, with KV-cache blocks for their active tokens.

        Returns:
            None if the next step checks no guess.
        """
        self.is_promising = False
        if any(context.sampling_params.logits_processors for context in contexts):
            return None  # MAX applies them, to one token of a request.
        answering = [context for context in contexts if is_answering(context)]
        if not answering or self._proposer.proposer is None:
            return None
        tokens = sum(context.tokens.active_length for context in contexts)
        checked = (
            self._offered(answering, tokens)
            if self._observes
            else self._asked_for(answering, tokens)
        )
        for context in filter(may_force_guesses, answering):
            forced = forced_guesses(context, min(self._room(context), MAX_GUESSES))
            if forced.size:
                checked[context.request_id] = _FORCED, forced
        self._checked = {name: kind for name, (kind, _) in checked.items()}
        self.is_promising |= bool(checked)
        if not checked:
            return None
        nothing = _KINDLESS, NO_GUESSES
        return [checked.get(context.request_id, nothing)[1] for context in contexts]

    def look_on(self, contexts: Sequence[Any]) -> None:
        """Learns from the tokens of a batch whose next step is running already.

        Args:
            contexts: The requests.
        """
        if self._observes or self._proposer.proposer is None:
            self.guesses(contexts)
            return
        answering = [context for context in contexts if is_answering(context)]
        self.is_promising = any(self._limits(answering, len(contexts)))

    def observe(
        self,
        contexts: Sequence[Any],
        guesses: Sequence[Guesses],
        tokens: Sequence[Sequence[int]],
    ) -> None:
        """Learns from the guesses that a step has checked.

        Args:
            contexts: The requests.
            guesses: The guesses for each.
            tokens: The tokens that each got: the right guesses, and one more unless the
                last of them ends the answer.
        """
        for context, guessed, chosen in zip(contexts, guesses, tokens, strict=True):
            if not guessed.size:
                continue
            pairs = zip(chosen, guessed.tolist(), strict=False)
            right = sum(token == guess for token, guess in pairs)
            kind = self._checked.get(context.request_id, _KINDLESS)
            if kind != _FORCED:
                self.budget.observe(context.request_id, kind, right, guessed.size)
            self.counts += GuessCounts(1, guessed.size, right)

    def release(self, request_id: Any) -> None:
        """Forgets a request; it may be called twice."""
        self._unchecked.pop(request_id, None)
        self.budget.release(request_id)
        self._proposer.release(request_id)

    def _offered(
        self, contexts: Sequence[Any], tokens: int
    ) -> dict[Any, tuple[int, Guesses]]:
        """Returns the guesses to check, of those that the proposer has anyway.

        Returns:
            The kind and the guesses by request.
        """
        if self._steps_to_skip:
            self._steps_to_skip -= 1
            return {}
        started = perf_counter()
        checked, waits_for_room = self._best_offers(contexts, tokens)
        if not checked and not waits_for_room:
            # Small models decode a token in less time than it takes to look for it.
            budget = _OBSERVING_SHARE * self.times.seconds(tokens, False)
            skipped = int((perf_counter() - started) / budget)
            self._steps_to_skip = min(skipped, _MOST_SKIPPED)
        return checked

    def _best_offers(
        self, contexts: Sequence[Any], tokens: int
    ) -> tuple[dict[Any, tuple[int, Guesses]], bool]:
        """Returns the offered guesses to check, and remembers the others.

        Returns:
            The kind and the guesses by request; whether a request has guesses, but no
            room for them until its next block.
        """
        self._observe_unchecked(contexts)
        most = [MAX_GUESSES] * len(contexts)
        offers = [
            (context, guesses.size, allowed_guesses(context, guesses, self._vocab_size))
            for context, guesses in zip(
                contexts, self._proposer.propose(contexts, most), strict=True
            )
        ]
        rooms = [self._room(context) for context, _, _ in offers]
        limits = self.budget.limits(
            [context.request_id for context, _, _ in offers],
            [kind for _, kind, _ in offers],
            [
                min(guesses.size, room)
                for (_, _, guesses), room in zip(offers, rooms, strict=True)
            ],
            tokens,
        )
        checked = {}
        waits_for_room = False
        for (context, kind, guesses), room, limit in zip(
            offers, rooms, limits, strict=True
        ):
            if limit:
                checked[context.request_id] = kind, guesses[:limit]
            elif guesses.size:
                waits_for_room |= not room
                unchecked = kind, len(context.tokens), int(guesses[0])
                self._unchecked[context.request_id] = unchecked
        return checked, waits_for_room

    def _asked_for(
        self, contexts: Sequence[Any], tokens: int
    ) -> dict[Any, tuple[int, Guesses]]:
        """Returns the guesses to check, of which the proposer makes no more."""
        limits = self._limits(contexts, tokens)
        self.is_promising = any(limits)
        checked = {}
        for context, guesses in zip(
            contexts, self._proposer.propose(contexts, limits), strict=True
        ):
            allowed = allowed_guesses(context, guesses, self._vocab_size)
            if allowed.size:
                checked[context.request_id] = _KINDLESS, allowed
            elif guesses.size:
                # What can't be chosen was in vain, as a guess that is wrong.
                self.budget.observe(context.request_id, _KINDLESS, 0, 1)
        return checked

    def _limits(self, contexts: Sequence[Any], tokens: int) -> list[int]:
        """Returns how many guesses to ask for, where the proposer knows no kinds."""
        most = []
        for context, prospect in zip(
            contexts, self._proposer.prospects(contexts), strict=True
        ):
            pays = self.budget.pays_to_catch_up(
                context.request_id,
                _KINDLESS,
                prospect,
                context.max_length - len(context.tokens),
                len(contexts),
                tokens,
            )
            most.append(min(self._room(context), prospect.most) if pays else 0)
        return self.budget.limits(
            [context.request_id for context in contexts],
            [_KINDLESS] * len(contexts),
            most,
            tokens,
        )

    def _observe_unchecked(self, contexts: Sequence[Any]) -> None:
        """Learns from guesses that no step has checked, once their tokens are known."""
        for context in contexts:
            unchecked = self._unchecked.pop(context.request_id, None)
            if unchecked is None:
                continue
            kind, place, guess = unchecked
            if place < len(context.tokens):
                is_right = int(context.tokens[place]) == guess
                self.budget.observe(context.request_id, kind, int(is_right), 1)

    def _room(self, context: Any) -> int:
        """Returns how many guesses a request has room for."""
        length = len(context.tokens)
        blocks = self._kv_manager.num_req_blocks(context)
        # A token follows the last guess.
        return max(
            0, min(blocks * self._page_size - length, context.max_length - length - 1)
        )
