"""Predicts the next decode step before MAX records the last tokens."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from max.pipelines.modeling.types import TextGenerationInputs

from mllama.runtime import greedy_sampler

Progress = list[tuple[Any, int, int]]
"""The requests of a batch in order: each one's id, its number of computed tokens, and
the number of tokens that the step computes for it."""

Limits = list[tuple[frozenset[int], int]]
"""The requests of a batch in order: each one's end tokens and maximum length."""


@dataclass
class Step:
    """One step of a batch.

    Attributes:
        progress: The batch.
        prepared: The result of MAX's ``prepare_batch``.
        limits: The limits of its requests; None if MAX has to choose the tokens or to
            find out whether a request ends.
        is_requested: Whether the scheduler waits for it.
        outputs: The model's outputs, once it has run.
        tokens: The chosen tokens ``[requests]``, once they are known, if ``limits`` is
            given.
    """

    progress: Progress
    prepared: tuple[Any, ...]
    limits: Limits | None
    is_requested: bool = False
    outputs: Future[Any] = field(default_factory=Future)
    tokens: npt.NDArray[np.int64] | None = None

    def choose(self, outputs: Any) -> npt.NDArray[np.int64]:
        """Returns the requests' new tokens ``[requests]``.

        Args:
            outputs: The model's outputs of this step.
        """
        if self.tokens is None:
            logits = outputs.next_token_logits
            if logits is None:
                logits = outputs.logits
            self.tokens = greedy_sampler.argmax_tokens(logits)
        return self.tokens

    def next(self, outputs: Any, page_size: int) -> Step | None:
        """Returns the same requests' next step, made of this one's inputs in place.

        Args:
            outputs: The model's outputs of this step.
            page_size: Tokens of a page of the KV cache.

        Returns:
            None if MAX has to decide what comes next.
        """
        if self.limits is None:
            return None
        progress = advanced(self.progress)
        if not (self.is_decode and fits_pages(progress, page_size)):
            return None
        tokens = self.choose(outputs).tolist()
        for token, (_, computed, new), (end_tokens, max_length) in zip(
            tokens, progress, self.limits, strict=True
        ):
            if token in end_tokens or computed + new >= max_length:
                return None
        self.prepared[0].advance(tokens)
        return Step(progress, self.prepared, self.limits)

    @property
    def is_decode(self) -> bool:
        """Returns True if the step computes one token of each request."""
        return self.prepared[0].tokens.num_elements == len(self.progress)


def progress_of(batches: Sequence[Sequence[Any]]) -> Progress:
    """Returns the progress of a batch in the scheduler's form."""
    return [
        (
            context.request_id,
            context.tokens.processed_length,
            context.tokens.active_length,
        )
        for batch in batches
        for context in batch
    ]


def advanced(progress: Progress) -> Progress:
    """Returns the progress of the step after one: each request has one more token."""
    return [(name, computed + new, 1) for name, computed, new in progress]


def fits_pages(progress: Progress, page_size: int) -> bool:
    """Returns True if a step only adds a token to pages that its requests have."""
    return all(new == 1 and computed % page_size for _, computed, new in progress)


def limits_of(inputs: TextGenerationInputs[Any], sampling: Any) -> Limits | None:
    """Returns the limits of a batch's requests, or None if other conditions end one.

    Args:
        inputs: The batch.
        sampling: MAX's settings for all requests.
    """
    contexts = inputs.flat_batch
    if inputs.enable_log_probs or sampling.enable_variable_logits:
        return None
    if not greedy_sampler.is_greedy(contexts, sampling):
        return None
    if any(_has_conditions(context) for context in contexts):
        return None
    return [
        (frozenset(context.eos_tracker.eos_token_ids), context.max_length)
        for context in contexts
    ]


def _has_conditions(context: Any) -> bool:
    return bool(
        # A chunk of a prompt, after which the prompt goes on.
        context.tokens.actively_chunked
        or context.eos_tracker.eos_sequences
        or _has_grammar(context)
        or context.sampling_params.logits_processors
    )


def _has_grammar(context: Any) -> bool:
    return bool(context.json_schema or context.grammar)


def all_continue(inputs: TextGenerationInputs[Any], outputs: dict[Any, Any]) -> bool:
    """Returns True if each request of a batch received a token and continues."""
    return all(
        (output := outputs.get(context.request_id)) is not None
        and output.tokens
        and not output.is_done
        # The mask of a grammar is computed while a step is prepared, only once.
        and not _has_grammar(context)
        for context in inputs.flat_batch
    )
