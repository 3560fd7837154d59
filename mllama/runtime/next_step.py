"""Predicts the next decode step before MAX records the last tokens."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from max.pipelines.modeling.types import TextGenerationInputs

from mllama.runtime import host_sampler
from mllama.runtime.speculation.proposer import Guesses
from mllama.sampling.state import SamplingState

Progress = list[tuple[Any, int, int]]
"""The requests of a batch in order: each one's id, its number of computed tokens, and
the number of tokens that the step computes for it."""


@dataclass(frozen=True)
class Continuation:
    """How the next token of a request is chosen, and what ends the request.

    Attributes:
        sampling: The request, for the sampler.
        end_tokens: The tokens that end it.
        max_length: Its maximum length, prompt and answer.
    """

    sampling: SamplingState
    end_tokens: frozenset[int]
    max_length: int


@dataclass
class Step:
    """One step of a batch.

    Attributes:
        progress: The batch.
        prepared: The result of MAX's ``prepare_batch``.
        continuations: Those of its requests; None if MAX has to choose the tokens or to
            find out whether a request ends.
        vocab_size: Number of tokens to choose from; None is all.
        is_requested: Whether the scheduler waits for it.
        outputs: The model's outputs, once it has run.
        tokens: The chosen tokens ``[requests]``, once they are known, if
            ``continuations`` is given.
        guesses: Those of each request that the step checks; None if it checks none.
        guessing_seconds: What looking for guesses took, just before it.
        goes_on: Whether the next step may be made of this one's inputs.
        follows: Whether the thread was given it as soon as the one before had ended.
    """

    progress: Progress
    prepared: tuple[Any, ...]
    continuations: list[Continuation] | None
    vocab_size: int | None = None
    is_requested: bool = False
    outputs: Future[Any] = field(default_factory=Future)
    tokens: npt.NDArray[np.int64] | None = None
    guesses: list[Guesses] | None = None
    guessing_seconds: float = 0.0
    goes_on: bool = True
    follows: bool = False

    def choose(self, outputs: Any) -> npt.NDArray[np.int64]:
        """Returns the requests' new tokens ``[requests]``.

        Args:
            outputs: The model's outputs of this step.
        """
        assert self.continuations is not None
        if self.tokens is None:
            logits = outputs.next_token_logits
            if logits is None:
                logits = outputs.logits
            self.tokens = host_sampler.choose_tokens(
                logits,
                [request.sampling for request in self.continuations],
                vocab_size=self.vocab_size,
            )
        return self.tokens

    def next(self, outputs: Any, page_size: int) -> Step | None:
        """Returns the same requests' next step, made of this one's inputs in place.

        Args:
            outputs: The model's outputs of this step.
            page_size: Tokens of a page of the KV cache.

        Returns:
            None if MAX has to decide what comes next.
        """
        if self.continuations is None or not self.goes_on:
            return None
        progress = advanced(self.progress)
        if not (self.is_decode and fits_pages(progress, page_size)):
            return None
        tokens = self.choose(outputs).tolist()
        following = []
        for token, (_, computed, new), request in zip(
            tokens, progress, self.continuations, strict=True
        ):
            if token in request.end_tokens or computed + new >= request.max_length:
                return None
            sampling = request.sampling.after(token)
            # The next step computes the tokens after it as well.
            if sampling.forced_token is not None:
                return None
            following.append(replace(request, sampling=sampling))
        self.prepared[0].advance(tokens)
        return Step(progress, self.prepared, following, self.vocab_size, follows=True)

    @property
    def num_tokens(self) -> int:
        """Returns the number of tokens that the step computes."""
        count: int = self.prepared[0].tokens.num_elements
        return count

    @property
    def is_decode(self) -> bool:
        """Returns True if the step computes one token of each request."""
        return self.num_tokens == len(self.progress)


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


def continuations_of(
    inputs: TextGenerationInputs[Any], sampling: Any
) -> list[Continuation] | None:
    """Returns how a batch's requests go on, or None if MAX has to find out.

    Args:
        inputs: The batch.
        sampling: MAX's settings for all requests.
    """
    contexts = inputs.flat_batch
    if inputs.enable_log_probs or sampling.enable_variable_logits:
        return None
    if any(_has_conditions(context) for context in contexts):
        return None
    return [
        Continuation(
            state, frozenset(context.eos_tracker.eos_token_ids), context.max_length
        )
        for context, state in zip(
            contexts, host_sampler.sampling_states(contexts), strict=True
        )
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
