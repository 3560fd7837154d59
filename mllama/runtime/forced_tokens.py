"""Forced tokens: the only ones that a grammar allows need no step of their own.

After a step, the tokens that the grammar of a request forces are appended to its answer
at once.  The request's next step computes the keys and values of all of them, like a
chunk of a prompt, and returns the logits of the last one.  MAX's scheduler reserves the
KV-cache blocks for the active tokens of a request, one or more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from max.pipelines.context import TextGenerationOutput

from mllama.max_model.sampling_context import prompt_length_of
from mllama.requests.answer_matcher import (
    AnswerMatcher,
)
from mllama.runtime.fault_isolation import failed_output

logger = logging.getLogger("mllama")

MAX_FORCED_TOKENS: Final = 32
"""Forced tokens of a request that one step computes: other requests wait for it."""


def append_forced_tokens(contexts: Iterable[Any], outputs: dict[Any, Any]) -> None:
    """Appends the tokens that grammars force to the answers of a batch.

    The answers are those of decoding one by one: each token is the only one that the
    grammar allows after those before it, and it may end the answer.  Nothing is
    appended to a request that gets log probabilities, which need the logits of each
    token.  A request whose grammar raises ends with
    :func:`~mllama.runtime.fault_isolation.failed_output`: the tokens of the others are
    recorded already, and would be lost with the batch.

    Args:
        contexts: The requests, which have the tokens of a step, whose KV-cache blocks
            are committed.
        outputs: MAX's outputs of the step by request, which get the tokens.
    """
    for context in contexts:
        output = outputs.get(context.request_id)
        # There is none in the middle of a prompt.
        if output is None or output.is_done or not _may_skip_logits(context):
            continue
        try:
            has_more = _append_forced(context) > 0
        except Exception:
            logger.exception("request %s failed", context.request_id)
            outputs[context.request_id] = failed_output(context.request_id)
            continue
        if has_more:
            outputs[context.request_id] = TextGenerationOutput.merge(
                [output, context.to_generation_output()]
            )


def appending_forced_tokens(
    execute: Callable[[Any], dict[Any, Any]],
) -> Callable[[Any], dict[Any, Any]]:
    """Returns a pipeline's ``execute``, followed by :func:`append_forced_tokens`."""

    def execute_and_append(inputs: Any) -> dict[Any, Any]:
        outputs = execute(inputs)
        append_forced_tokens(inputs.flat_batch, outputs)
        return outputs

    return execute_and_append


def _may_skip_logits(context: Any) -> bool:
    is_constrained = isinstance(context.matcher, AnswerMatcher)
    return is_constrained and not context.log_probabilities


def _append_forced(context: Any) -> int:
    """Appends the forced tokens of a request, and returns how many there are."""
    start = prompt_length_of(context)
    count = 0
    while count < MAX_FORCED_TOKENS and not context.is_done:
        token = context.matcher.forced_token(context.tokens.all[start:])
        if token is None:
            break
        context.advance_token_buffer(token)
        count += 1
    # MAX takes all tokens but the last one for computed, and would cache their blocks.
    context.tokens.rewind_processing(count)
    return count
