"""MAX's overlap pipeline on a GPU: a batch's outputs come one step late.

The pipeline starts a batch before it reads the tokens of the last one, which reach the
next step on the device.  Requests then have a placeholder where their last token will
be.  What needs that token on the host must wait for it, and an exception may come
between two batches.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from max.pipelines.context import FUTURE_TOKEN
from max.pipelines.modeling.types import TextGenerationInputs

from mllama.max_compat.patches import drop_pending_outputs
from mllama.runtime.fault_isolation import failed_output

logger = logging.getLogger("mllama")

Outputs = dict[Any, Any]


class DeferredExecution:
    """Computes batches with MAX's overlap pipeline and survives their exceptions.

    If a batch fails, the outputs of the one before are read first, and its requests are
    computed again one by one.  A request that fails alone ends with
    :func:`~mllama.runtime.fault_isolation.failed_output`, as does one whose last token
    is lost.

    Args:
        pipeline: MAX's ``OverlapTextGenerationPipeline``.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._execute = pipeline.execute
        self._pending: list[Any] = []

    def execute(self, inputs: TextGenerationInputs[Any]) -> Outputs:
        """Starts a batch, and returns the outputs of the one before.

        Replaces the pipeline's ``execute``.

        Args:
            inputs: The batch; an empty one only reads the outputs that are pending.
        """
        outputs: Outputs = {}
        try:
            if any(map(_needs_last_token, inputs.flat_batch)):
                _add(outputs, self._drain())
            _add(outputs, self._run(inputs))
        except Exception:
            if not (inputs.flat_batch or self._pending):
                raise
            logger.exception("a batch failed; trying its requests one by one")
            _add(outputs, self._recover(inputs.flat_batch, outputs))
        return outputs

    def _run(self, inputs: TextGenerationInputs[Any]) -> Outputs:
        outputs: Outputs = self._execute(inputs)
        is_pending = self._pipeline.has_pending_outputs()
        self._pending = list(inputs.flat_batch) if is_pending else []
        return outputs

    def _drain(self) -> Outputs:
        """Returns the outputs that are pending, without starting a batch."""
        if not self._pipeline.has_pending_outputs():
            return {}
        return self._run(TextGenerationInputs(batches=[[]]))

    def _recover(self, batch: list[Any], earlier: Outputs) -> Outputs:
        """Returns the outputs of a batch that failed, and of the one before.

        Args:
            batch: The requests of the batch that failed.
            earlier: Outputs that were read before it failed.
        """
        lost, self._pending = self._pending, []
        outputs: Outputs = {}
        if self._pipeline.has_pending_outputs():
            try:
                outputs = self._drain()
                lost = []
            except Exception:
                logger.exception("the tokens of the batch before are lost")
                drop_pending_outputs(self._pipeline)
        for context in lost:
            outputs[context.request_id] = failed_output(context.request_id)
        for context in batch:
            name = context.request_id
            if not any(
                name in read and read[name].is_done for read in (earlier, outputs)
            ):
                _add(outputs, self._alone(context))
        return outputs

    def _alone(self, context: Any) -> Outputs:
        """Returns the output of a request that is computed alone, without delay."""
        if not _has_placeholder(context):
            try:
                outputs = self._run(TextGenerationInputs(batches=[[context]]))
                _add(outputs, self._drain())
                return outputs
            except Exception:
                logger.exception("request %s failed", context.request_id)
                drop_pending_outputs(self._pipeline)
                self._pending = []
        return {context.request_id: failed_output(context.request_id)}


def _needs_last_token(context: Any) -> bool:
    """Returns True if a request's next token depends on its last one on the host.

    MAX would count the placeholder in its place.
    """
    params = context.sampling_params
    return bool(params.needs_penalties or params.logits_processors)


def _has_placeholder(context: Any) -> bool:
    """Returns True if the host doesn't know a request's last token."""
    tokens = context.tokens
    return bool(tokens.generated_length and tokens[-1] == FUTURE_TOKEN)


def _add(outputs: Outputs, later: Outputs) -> None:
    """Adds later outputs to earlier ones, of the same requests too."""
    for name, output in later.items():
        if name in outputs:
            tokens = [*outputs[name].tokens, *output.tokens]
            output = replace(output, tokens=tokens)
        outputs[name] = output
