"""The fields of a request's context that affect its sampling, beside MAX's own.

They travel in a context's ``extra_model_args``, which reach the model's process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from max.pipelines.context.exceptions import InputError

from mllama.sampling.log_probabilities import ALL

PROMPT_LENGTH = "prompt_length"
"""Key of ``extra_model_args``: int64 ``[1]``, the tokens of the request's own prompt.

When MAX preempts a request, its answer so far becomes part of the prompt.
"""

LOGIT_BIAS_TOKENS = "logit_bias_tokens"
"""Key of ``extra_model_args``: int64 ``[tokens]``."""

LOGIT_BIAS_VALUES = "logit_bias_values"
"""Key of ``extra_model_args``: float32 ``[tokens]``, added to the tokens' logits."""

LOG_PROBABILITIES = "log_probabilities"
"""Key of ``extra_model_args``: int64 ``[1]``, the likeliest tokens to report for each
token of the answer; absent if no log probabilities are."""

PROMPT_LOG_PROBABILITIES = "prompt_log_probabilities"
"""Key of ``extra_model_args``: as ``LOG_PROBABILITIES``, for the prompt's tokens."""

GRAMMAR = "grammar"
"""Key of ``extra_model_args``: uint8 ``[bytes]``, the grammar of the answer, in
UTF-8; absent if the answer may be any."""

GUESSES = "guesses"
"""Key of ``extra_model_args``: int64 ``[1]``, the last active tokens that are guesses;
absent if none are."""

MAX_PROMPT_LOG_PROBABILITIES: Final = 1 << 18
"""Log probabilities that one request gets for its prompt, at most: 2 for each token of
the longest context, or 20 for each of 13,000.  The server decodes them at once, between
the tokens of other requests."""


@dataclass(frozen=True)
class LogProbabilityCounts:
    """The likeliest tokens whose log probabilities a request wants in each place.

    0 asks for those of the tokens themselves, ``ALL`` for the whole vocabulary, and
    None for none.

    Attributes:
        answer: For the tokens of the answer.
        prompt: For the tokens of the prompt.
    """

    answer: int | None = None
    prompt: int | None = None


def set_logit_bias(context: Any, bias: Mapping[int, float]) -> None:
    """Sets what is added to the logits of tokens in all steps of a request.

    Args:
        context: The request, made by this package's tokenizer.
        bias: The values to add, by token.
    """
    context.extra_model_args[LOGIT_BIAS_TOKENS] = np.array(list(bias), np.int64)
    context.extra_model_args[LOGIT_BIAS_VALUES] = np.array(
        list(bias.values()), np.float32
    )


def logit_bias_of(context: Any) -> dict[int, float]:
    """Returns what is added to the logits of tokens, by token."""
    tokens = context.extra_model_args.get(LOGIT_BIAS_TOKENS)
    if tokens is None:
        return {}
    values = context.extra_model_args[LOGIT_BIAS_VALUES]
    return dict(zip(tokens.tolist(), values.tolist(), strict=True))


def set_grammar(context: Any, grammar: str) -> None:
    """Sets the grammar of a request's answer."""
    context.extra_model_args[GRAMMAR] = np.frombuffer(grammar.encode(), np.uint8)


def grammar_of(context: Any) -> str | None:
    """Returns the grammar of a request's answer; None if it has none."""
    encoded = context.extra_model_args.get(GRAMMAR)
    return None if encoded is None else encoded.tobytes().decode()


def max_logprobs(counts: LogProbabilityCounts) -> int:
    """Returns the ``logprobs`` that MAX's request must have, to ask for any or none."""
    return int(counts != LogProbabilityCounts())


def set_log_probabilities(
    context: Any, counts: LogProbabilityCounts, vocabulary: int
) -> None:
    """Sets which log probabilities a request gets.

    Args:
        context: The request, made by this package's tokenizer of a MAX request whose
            ``logprobs`` is :func:`max_logprobs`.
        counts: What it asks for.
        vocabulary: The number of tokens of the model's vocabulary.

    Raises:
        InputError: If it asks for too many.
    """
    if context.log_probabilities != max_logprobs(counts):
        raise ValueError("the request's `logprobs` contradict the counts")
    if counts.prompt is not None:
        likeliest = vocabulary if counts.prompt == ALL else counts.prompt
        length = context.tokens.prompt_length
        if length * max(1, likeliest) > MAX_PROMPT_LOG_PROBABILITIES:
            raise InputError(
                f"{likeliest} log probabilities for each of the prompt's {length} "
                f"tokens are more than {MAX_PROMPT_LOG_PROBABILITIES}; ask for fewer"
            )
    for key, count in (
        (LOG_PROBABILITIES, counts.answer),
        (PROMPT_LOG_PROBABILITIES, counts.prompt),
    ):
        if count is not None:
            context.extra_model_args[key] = np.array([count], np.int64)


def log_probability_counts(context: Any) -> LogProbabilityCounts:
    """Returns which log probabilities a request gets.

    Without this package's own fields, MAX's count: there, 0 asks for none.
    """
    answer = context.extra_model_args.get(LOG_PROBABILITIES)
    prompt = context.extra_model_args.get(PROMPT_LOG_PROBABILITIES)
    if answer is None and prompt is None:
        if not context.log_probabilities:
            return LogProbabilityCounts()
        count = context.log_probabilities
        return LogProbabilityCounts(
            count, count if context.log_probabilities_echo else None
        )
    return LogProbabilityCounts(
        None if answer is None else int(answer[0]),
        None if prompt is None else int(prompt[0]),
    )


def pending_prompt_count(context: Any) -> int | None:
    """Returns the likeliest tokens to report for each token of the prompt.

    Returns:
        None if nobody asks for the prompt's log probabilities, or if they came with the
        first token of the answer.
    """
    if not context.log_probabilities:
        return None
    tokens = context.tokens
    # A preempted request's answer so far is a part of MAX's prompt.
    if tokens.generated_length or tokens.prompt_length > prompt_length_of(context):
        return None
    return log_probability_counts(context).prompt


def prompt_length_of(context: Any) -> int:
    """Returns the number of tokens of a request's own prompt."""
    return int(context.extra_model_args[PROMPT_LENGTH][0])


def guess_count(context: Any) -> int:
    """Returns how many of a request's active tokens, the last ones, are guesses."""
    # Those that MAX makes up to capture device graphs have no such arguments.
    count = getattr(context, "extra_model_args", {}).get(GUESSES)
    return 0 if count is None else int(count[0])
