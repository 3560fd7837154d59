"""Guesses tokens with a draft model: what it would say next itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import numpy as np

from mllama.max_model.draft.cache import CachedSequence, Tokens
from mllama.max_model.draft.model import DraftModel, DraftRow
from mllama.runtime.speculation.catch_up_times import CatchUpTimes
from mllama.runtime.speculation.guess_budget import MAX_GUESSES
from mllama.runtime.speculation.proposer import Guesses, Prospect

PREFILL_TOKENS: Final = 128
"""Tokens that the draft model has missed and computes in one call, at most.

A long prompt takes several calls, in which the model decodes without guesses, instead
of one that the other requests wait for.
"""


@dataclass(eq=False)
class _Turn:
    """A request that is guessed for.

    Attributes:
        request_id: The request.
        sequence: What the cache has of it.
        tokens: Its tokens, without those that stand for images.
        limit: The most tokens to guess.
        end_tokens: Tokens that end its answer, after which nothing follows.
        guesses: The guesses so far.
    """

    request_id: Any
    sequence: CachedSequence
    tokens: Tokens
    limit: int
    end_tokens: frozenset[int]
    guesses: list[int] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Returns True if another guess is wanted."""
        return len(self.guesses) < self.limit and not (
            self.guesses and self.guesses[-1] in self.end_tokens
        )


class DraftProposer:
    """Lets a draft model continue the answers of a batch together, greedily.

    The model never sees a picture: the tokens that stand for pictures are left out.
    Its cache follows the truth: keys and values of guesses that turned out wrong are
    overwritten.

    Args:
        model: The draft model.
        prefill_tokens: See :data:`PREFILL_TOKENS`.
    """

    def __init__(
        self, model: DraftModel, *, prefill_tokens: int = PREFILL_TOKENS
    ) -> None:
        self._model = model
        self._prefill_tokens = prefill_tokens
        self._times = CatchUpTimes()
        # Tokens that stand for images, which are in prompts alone.
        self._image_tokens: dict[Any, int] = {}

    def prospects(self, contexts: Sequence[Any]) -> list[Prospect]:
        """Returns what each request has room for, and which tokens the cache lacks."""
        cache = self._model.cache
        lengths = [self._length(context) for context in contexts]
        missed = [
            # The last token always counts as new.
            max(1, length - cache.length(context.request_id))
            for context, length in zip(contexts, lengths, strict=True)
        ]
        # Those that lack little keep their pages.
        order = sorted(range(len(contexts)), key=missed.__getitem__)
        rooms = cache.rooms([lengths[index] for index in order], MAX_GUESSES)
        prospects = [Prospect(0)] * len(contexts)
        for index, room in zip(order, rooms, strict=True):
            if lengths[index]:
                # The last guess is not computed.
                most = min(room, self._model.max_length) - lengths[index] + 1
                seconds = self._times.seconds(missed[index])
                prospects[index] = Prospect(max(0, most), missed[index], seconds)
        return prospects

    def propose(self, contexts: Sequence[Any], limits: Sequence[int]) -> list[Guesses]:
        """Returns guesses of the tokens that follow each request's tokens so far."""
        turns = {
            index: self._turn(context, limit)
            for index, (context, limit) in enumerate(zip(contexts, limits, strict=True))
            if limit > 0
        }
        followed = self._follow(list(turns.values()))
        while followed:
            followed = self._continue([turn for turn in followed if turn.is_open])
        return [
            np.array(turns[index].guesses if index in turns else [], np.int64)
            for index in range(len(contexts))
        ]

    def release(self, request_id: Any) -> None:
        """Forgets a request."""
        self._image_tokens.pop(request_id, None)
        self._model.cache.release(request_id)

    def _length(self, context: Any) -> int:
        """Returns the number of a request's tokens without those of images."""
        images = self._image_tokens.get(context.request_id)
        if images is None:
            tokens = context.tokens.all
            images = int(np.count_nonzero(tokens >= self._model.vocabulary))
            self._image_tokens[context.request_id] = images
        return len(context.tokens) - images

    def _turn(self, context: Any, limit: int) -> _Turn:
        tokens = context.tokens.all
        tokens = tokens[tokens < self._model.vocabulary]
        return _Turn(
            context.request_id,
            self._model.cache.sequence(context.request_id),
            tokens,
            min(limit, self._model.max_length + 1 - len(tokens)),
            frozenset(context.eos_tracker.eos_token_ids),
        )

    def _follow(self, turns: Sequence[_Turn]) -> list[_Turn]:
        """Computes the requests' tokens that the cache lacks, and makes first guesses.

        Returns:
            The requests whose tokens are all computed.
        """
        missing = [
            (turn, turn.sequence.follow(turn.tokens))
            for turn in turns
            if turn.limit > 0 and len(turn.tokens)
        ]
        # Those that lack little come first: they can be guessed for now.
        missing.sort(key=lambda each: len(each[1]))
        keep = {turn.request_id for turn, _ in missing}
        budget = self._prefill_tokens
        rows: list[tuple[_Turn, Tokens]] = []
        complete: list[_Turn] = []
        for turn, tokens in missing:
            chunk = tokens[:budget]
            # The last guess is not computed.
            length = len(turn.tokens) + turn.limit - 1
            if not len(chunk) or not self._model.cache.reserve(
                turn.request_id, length, keep
            ):
                continue
            rows.append((turn, chunk))
            budget -= len(chunk)
            if len(chunk) == len(tokens):
                complete.append(turn)
        if not rows:
            return []
        started = perf_counter()
        next_tokens = self._compute(rows)
        self._times.observe(
            sum(len(chunk) for _, chunk in rows), perf_counter() - started
        )
        for (turn, _), token in zip(rows, next_tokens, strict=True):
            if turn in complete:
                turn.guesses.append(token)
        return complete

    def _continue(self, turns: Sequence[_Turn]) -> list[_Turn]:
        """Computes the last guess of each request, and makes the next one."""
        if not turns:
            return []
        rows = [(turn, np.array(turn.guesses[-1:], np.int64)) for turn in turns]
        for turn, token in zip(turns, self._compute(rows), strict=True):
            turn.guesses.append(token)
        return list(turns)

    def _compute(self, rows: Sequence[tuple[_Turn, Tokens]]) -> list[int]:
        """Computes tokens of requests, and returns the likeliest after each one's."""
        next_tokens = self._model.next_tokens(
            [
                DraftRow(tokens, len(turn.sequence.tokens), turn.sequence.pages)
                for turn, tokens in rows
            ]
        )
        for turn, tokens in rows:
            turn.sequence.append(tokens)
        return [int(token) for token in next_tokens]
