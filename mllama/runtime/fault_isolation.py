"""Fault isolation: an exception ends the requests that cause it, and no others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from max.pipelines.context import GenerationStatus, TextGenerationOutput

from mllama.requests.answer_matcher import (
    GrammarError,
)

logger = logging.getLogger("mllama")

Execute = Callable[[Any], dict[Any, Any]]


def isolate_failures(execute: Execute) -> Execute:
    """Returns a pipeline's ``execute`` that survives exceptions.

    A batch that fails is computed again, one request at a time.  A request that fails
    alone ends with :func:`failed_output`, and its traceback goes to the log, unless the
    format of its answer can't be followed, which is the request's own fault.  A request
    that had got its token before the batch failed ends the same way, since that token
    is lost.

    Args:
        execute: Computes a batch.
    """

    def isolated(inputs: Any) -> dict[Any, Any]:
        contexts = inputs.flat_batch
        before = [_progress(context) for context in contexts]
        try:
            return execute(inputs)
        except Exception as error:
            if not contexts:
                raise
            if len(contexts) > 1:
                # One that fails alone has the traceback.
                summary = " ".join(f"{type(error).__name__}: {error}".split())[:500]
                logger.warning(
                    "a batch failed (%s); trying its requests one by one", summary
                )
            else:
                _log(error, f"request {contexts[0].request_id} failed")
                return {contexts[0].request_id: failed_output(contexts[0].request_id)}
        results: dict[Any, Any] = {}
        for context, progress in zip(contexts, before, strict=True):
            if _progress(context) == progress:
                results |= isolated(replace(inputs, batches=[[context]]))
            else:
                results[context.request_id] = failed_output(context.request_id)
        return results

    return isolated


def _log(error: Exception, what: str) -> None:
    """Logs an exception, with a traceback unless it is the request's own fault."""
    if isinstance(error, GrammarError):
        logger.warning("%s: the format of an answer: %s", what, error)
    else:
        logger.exception(what)


def _progress(context: Any) -> tuple[int, int]:
    return context.tokens.processed_length, context.tokens.generated_length


def failed_output(request_id: Any) -> TextGenerationOutput:
    """Returns the output of a request that can't be computed.

    MAX itself never uses this status in an output: a canceled request has none.
    """
    return TextGenerationOutput(
        request_id=request_id, tokens=[], final_status=GenerationStatus.CANCELLED
    )


def has_failed(status: GenerationStatus) -> bool:
    """Returns True if a request ended with :func:`failed_output`."""
    return status is GenerationStatus.CANCELLED
