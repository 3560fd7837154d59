"""The fields of a request's context that affect its sampling, beside MAX's own.

They travel in a context's ``extra_model_args``, which reach the model's process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

PROMPT_LENGTH = "prompt_length"
"""Key of ``extra_model_args``: int64 ``[1]``, the tokens of the request's own prompt.

When MAX preempts a request, its answer so far becomes part of the prompt.
"""

LOGIT_BIAS_TOKENS = "logit_bias_tokens"
"""Key of ``extra_model_args``: int64 ``[tokens]``."""

LOGIT_BIAS_VALUES = "logit_bias_values"
"""Key of ``extra_model_args``: float32 ``[tokens]``, added to the tokens' logits."""


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


def prompt_length_of(context: Any) -> int:
    """Returns the number of tokens of a request's own prompt."""
    return int(context.extra_model_args[PROMPT_LENGTH][0])
