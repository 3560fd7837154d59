"""Steps that check guesses: how they are made, and what their requests get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from max.pipelines.modeling.types import TextGenerationInputs

from mllama.max_compat.pipeline import pipeline_model
from mllama.max_model.host_buffers import on_host
from mllama.runtime.next_step import Step, progress_of
from mllama.runtime.speculation.guessing_context import guessing_context
from mllama.runtime.speculation.speculation import Speculation
from mllama.runtime.speculation.verification import (
    record_tokens,
    verified_log_probabilities,
    verified_tokens,
)


class GuessingSteps:
    """Makes the steps of a pipeline that check guesses, and records their tokens.

    Such a step computes more tokens than its requests have.  They get as many as were
    right, and one more.

    Args:
        pipeline: MAX's ``TextGenerationPipeline`` of an ``MllamaModel`` on a CPU.
        speculation: Guesses the tokens.
    """

    def __init__(self, pipeline: Any, speculation: Speculation) -> None:
        self._model = pipeline_model(pipeline)
        self._kv_manager = pipeline.kv_manager
        self._vocab_size = pipeline.vocab_size
        self._prepare_batch: Callable[..., tuple[Any, ...]] = pipeline.prepare_batch
        self._speculation = speculation

    @property
    def are_expected(self) -> bool:
        """Returns True if a guess is expected for the step after the next."""
        return self._speculation.is_promising

    def next(self, inputs: TextGenerationInputs[Any]) -> tuple[Step | None, float]:
        """Returns a batch's next step if it checks guesses.

        Args:
            inputs: The batch, whose requests have all of their tokens.

        Returns:
            The step, or None if there are no guesses; what looking for them took.
        """
        started = perf_counter()
        guesses = self._speculation.guesses(inputs.flat_batch)
        seconds = perf_counter() - started
        if guesses is None:
            return None, seconds
        following = iter(guesses)
        batches = [
            [guessing_context(context, next(following)) for context in batch]
            for batch in inputs.batches
        ]
        step = Step(
            progress_of(inputs.batches),
            self._prepare_batch(batches),
            None,
            guesses=guesses,
            guessing_seconds=seconds,
        )
        return step, seconds

    def look_on(self, contexts: Sequence[Any]) -> None:
        """Learns from the tokens of a batch whose next step is running already."""
        self._speculation.look_on(contexts)

    def release(self, request_id: Any) -> None:
        """Forgets a request; it may be called twice."""
        self._speculation.release(request_id)

    def verify(
        self, step: Step, outputs: Any, inputs: TextGenerationInputs[Any]
    ) -> dict[Any, Any]:
        """Records the tokens that a step has found, and returns MAX's outputs.

        Args:
            step: The step, which has checked guesses.
            outputs: The model's outputs of it.
            inputs: Its batch.
        """
        assert step.guesses is not None
        contexts = inputs.flat_batch
        logits = on_host(outputs.logits)
        tokens = verified_tokens(logits[:, : self._vocab_size], contexts, step.guesses)
        log_probabilities = None
        if inputs.enable_log_probs:
            log_probabilities = verified_log_probabilities(
                self._model, logits, contexts, tokens, step.guesses
            )
        self._speculation.observe(contexts, step.guesses, tokens)
        recorded = record_tokens(contexts, tokens, log_probabilities)
        for context in contexts:
            self._kv_manager.step(context)
        return recorded
