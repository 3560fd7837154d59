"""What can be told of a batch's next step while MAX has not noted the last tokens."""

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
"""Of each request of a batch, in its order: its name, how many of its tokens were
computed, and how many are to be."""

Ends = list[tuple[frozenset[int], int]]
"""Of each request of a batch: the tokens that end it, and its greatest length."""


@dataclass
class Step:
    """A step of a batch.

    Attributes:
        progress: The batch that it computes.
        prepared: What MAX's ``prepare_batch`` makes of it.
        ends: How its requests end, or None if that, or which tokens are chosen, is for
            MAX to say.
        is_asked_for: Whether the scheduler waits for it.
        outputs: The model's, once it has run.
        tokens: Those that are chosen, once they are; if ``ends`` is given.
    """

    progress: Progress
    prepared: tuple[Any, ...]
    ends: Ends | None
    is_asked_for: bool = False
    outputs: Future[Any] = field(default_factory=Future)
    tokens: npt.NDArray[np.int64] | None = None

    def choose(self, outputs: Any) -> npt.NDArray[np.int64]:
        """The requests' new tokens, given the model's outputs of this step."""
        if self.tokens is None:
            logits = outputs.next_token_logits
            self.tokens = greedy_sampler.argmax_tokens(
                outputs.logits if logits is None else logits
            )
        return self.tokens

    def next(self, outputs: Any, page_size: int) -> Step | None:
        """The same requests' next step, if its inputs are this one's, a token further.

        They are made so, in place.

        Args:
            outputs: The model's of this step.
            page_size: Tokens of a block of the KV cache.

        Returns:
            None if MAX has to say what comes next.
        """
        if self.ends is None:
            return None
        progress = advanced(self.progress)
        if not (self.is_decoding and keeps_blocks(progress, page_size)):
            return None
        tokens = self.choose(outputs).tolist()
        for token, (_, computed, new), (end_tokens, length) in zip(
            tokens, progress, self.ends, strict=True
        ):
            if token in end_tokens or computed + new >= length:
                return None
        self.prepared[0].advance(tokens)
        return Step(progress, self.prepared, self.ends)

    @property
    def is_decoding(self) -> bool:
        """Whether it computes one token of each request."""
        return self.prepared[0].tokens.num_elements == len(self.progress)


def progress_of(batches: Sequence[Sequence[Any]]) -> Progress:
    """That of a batch as MAX's scheduler has it."""
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
    """That of the step after one: each request has one token more."""
    return [(name, computed + new, 1) for name, computed, new in progress]


def keeps_blocks(progress: Progress, page_size: int) -> bool:
    """Whether a step adds a token to blocks that its requests have already."""
    return all(new == 1 and computed % page_size for _, computed, new in progress)


def ends_of(inputs: TextGenerationInputs[Any], sampling: Any) -> Ends | None:
    """How a batch's requests end, or None if there is more to it than tokens.

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
        # A piece of a prompt, after which the prompt goes on.
        context.tokens.actively_chunked
        or context.eos_tracker.eos_sequences
        or _has_grammar(context)
        or context.sampling_params.logits_processors
    )


def _has_grammar(context: Any) -> bool:
    return bool(context.json_schema or context.grammar)


def go_on(inputs: TextGenerationInputs[Any], outputs: dict[Any, Any]) -> bool:
    """Whether each request of a batch has got a token and wants another."""
    return all(
        (output := outputs.get(context.request_id)) is not None
        and output.tokens
        and not output.is_done
        # What a grammar allows is worked out while a step is prepared, only once.
        and not _has_grammar(context)
        for context in inputs.flat_batch
    )
