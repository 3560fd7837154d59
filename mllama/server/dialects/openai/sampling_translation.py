"""Sampling fields of a body to ``Sampling``, and what both kinds of requests share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mllama.requests.sampling_params import Sampling
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.sampling_fields import (
    GenerationFields,
    SamplingFields,
)
from mllama.server.model_names import check_model


def check_shared(body: GenerationFields, capabilities: ServerCapabilities) -> None:
    """Checks what a model of a body alone can't know.

    Raises:
        RequestRejected: If fields contradict each other, or exceed the vocabulary.
    """
    check_model(body.model, capabilities.model_name)
    if body.stream_options is not None and not body.stream:
        raise RequestRejected(
            "`stream_options` needs `stream` to be true.",
            "stream_options",
            code="invalid_value",
        )
    if body.stream and body.prompt_logprobs is not None:
        raise RequestRejected(
            "`prompt_logprobs` is not possible in a stream.",
            "prompt_logprobs",
            code="unsupported_parameter",
        )
    check_sampling(body, capabilities)


def check_sampling(body: SamplingFields, capabilities: ServerCapabilities) -> None:
    """Checks fields by which tokens are chosen, as far as a body's model can't.

    Raises:
        RequestRejected: If they contradict each other, or exceed the vocabulary.
    """
    if (
        body.repeat_penalty is not None
        and body.repetition_penalty is not None
        and body.repeat_penalty != body.repetition_penalty
    ):
        raise RequestRejected(
            "`repeat_penalty` and `repetition_penalty` are the same, and can't have "
            "two values.",
            "repeat_penalty",
            code="invalid_value",
        )
    check_tokens("stop_token_ids", body.stop_token_ids or (), capabilities)


def check_tokens(
    path: str, token_ids: Iterable[int], capabilities: ServerCapabilities
) -> None:
    """Checks that the model has these tokens.

    Raises:
        RequestRejected: If it doesn't have one.
    """
    last = capabilities.vocabulary - 1
    for position, token_id in enumerate(token_ids):
        if token_id > last:
            raise RequestRejected(
                f"`{path}[{position}]` must be a token id from 0 to {last}, "
                f"not {token_id}.",
                f"{path}[{position}]",
                code="invalid_value",
            )


def sampling_of(
    body: SamplingFields,
    capabilities: ServerCapabilities,
    *,
    max_new_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> Sampling:
    """Returns how a request's tokens are chosen.

    Args:
        body: The request.
        capabilities: Of the server.
        max_new_tokens: The longest answer in tokens; None is the server's default.
        logprobs: Number of likeliest tokens that each token comes with; None if the
            request asks for no log probabilities.
        prompt_logprobs: As ``logprobs``, for the tokens of the prompt.

    Raises:
        RequestRejected: If a token id is wrong.
        RequestError: If values are wrong together.
    """
    optional: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": body.temperature,
        "top_k": -1 if body.top_k == 0 else body.top_k,
        "top_p": body.top_p,
        "min_p": body.min_p,
        # OpenAI's range includes negative seeds.
        "seed": None if body.seed is None else body.seed % 2**63,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "repetition_penalty": body.repetition_penalty or body.repeat_penalty,
        "min_tokens": body.min_tokens,
        "ignore_eos": body.ignore_eos,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
        "stop": [body.stop] if isinstance(body.stop, str) else body.stop,
        "stop_token_ids": body.stop_token_ids,
        "logit_bias": _logit_bias(body, capabilities),
    }
    return Sampling(
        **{name: value for name, value in optional.items() if value is not None}
    )


def _logit_bias(
    body: SamplingFields, capabilities: ServerCapabilities
) -> dict[int, float]:
    bias = {}
    for key, value in (body.logit_bias or {}).items():
        if not (
            key.isascii()
            and key.isdigit()
            and len(key) < 20
            # Two spellings of a token, 5 and 05, could have different values.
            and key == str(int(key))
            and int(key) < capabilities.vocabulary
        ):
            raise RequestRejected(
                f"A key of `logit_bias` must be a token id from 0 to "
                f"{capabilities.vocabulary - 1}, not {key[:80]!r}.",
                "logit_bias",
                code="invalid_value",
            )
        bias[int(key)] = value
    return bias
