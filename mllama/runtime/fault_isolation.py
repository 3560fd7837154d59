"""An exception while a batch is computed ends the requests that cause it, no others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from max.pipelines.context import GenerationStatus, TextGenerationOutput

logger = logging.getLogger("mllama")

Execute = Callable[[Any], dict[Any, Any]]


def isolate_failures(pipeline: Any) -> None:
    """Makes a pipeline's ``execute`` survive exceptions.

    A batch that failed is computed again request by request; one that fails alone ends
    as :func:`failed` says, and the traceback goes to the log.  So does a request that
    had got its token already, since the token is lost.

    Args:
        pipeline: MAX's ``TextGenerationPipeline``.
    """
    execute: Execute = pipeline.execute

    def surviving(inputs: Any) -> dict[Any, Any]:
        contexts = inputs.flat_batch
        before = [_progress(context) for context in contexts]
        try:
            return execute(inputs)
        except Exception:
            if not contexts:
                raise
            if len(contexts) > 1:
                logger.exception("a batch failed; trying its requests one by one")
            else:
                logger.exception("request %s failed", contexts[0].request_id)
                return {contexts[0].request_id: failed(contexts[0].request_id)}
        results: dict[Any, Any] = {}
        for context, progress in zip(contexts, before, strict=True):
            if _progress(context) == progress:
                results |= surviving(replace(inputs, batches=[[context]]))
            else:
                results[context.request_id] = failed(context.request_id)
        return results

    pipeline.execute = surviving


def _progress(context: Any) -> tuple[int, int]:
    return context.tokens.processed_length, context.tokens.generated_length


def failed(request_id: Any) -> TextGenerationOutput:
    """What a request that can't be computed ends with.

    MAX itself never ends a request so: cancelled ones have no output at all.
    """
    return TextGenerationOutput(
        request_id=request_id, tokens=[], final_status=GenerationStatus.CANCELLED
    )


def has_failed(status: GenerationStatus) -> bool:
    """Whether a request ended as :func:`failed` says."""
    return status is GenerationStatus.CANCELLED
