"""Ollama's options and format to those of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mllama.errors import MllamaError
from mllama.requests.output_format import OutputFormat
from mllama.requests.sampling_params import Sampling
from mllama.server.bodies.parsing import parse_body
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.ollama.bodies import OllamaFields
from mllama.server.dialects.ollama.options import OllamaOptions

_NO_PENALTY: Final = {
    "repeat_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
"""Penalties that are off, by the names of their options."""


def model_options(parameters: Mapping[str, Any]) -> OllamaOptions:
    """Returns the options of a model in Ollama's store.

    Args:
        parameters: The model's parameters.  Those that Ollama no longer has are left
            out.

    Raises:
        MllamaError: If one can't be honored.
    """
    known = {
        name: value
        for name, value in parameters.items()
        if name in OllamaOptions.model_fields
    }
    try:
        return parse_body(OllamaOptions, known)
    except RequestRejected as error:
        raise MllamaError(
            f"the model's parameters in Ollama's store: {error}"
        ) from None


def ollama_output_format(body: OllamaFields) -> OutputFormat | None:
    """Returns the format that a body asks for; None if it asks for none.

    Objects have no properties that a schema doesn't name, as in Ollama.

    Raises:
        RequestError: If it is too large.
    """
    if not body.format and not isinstance(body.format, dict):
        return None
    if isinstance(body.format, dict):
        return OutputFormat.json_schema(body.format, strict=True, path="format")
    return OutputFormat.json_object(path="format")


def sampling_of(
    body: OllamaFields, defaults: OllamaOptions, capabilities: ServerCapabilities
) -> Sampling:
    """Returns how the tokens of an answer are chosen.

    Args:
        body: The request.
        defaults: The model's options.
        capabilities: Limits of the server.

    Raises:
        RequestRejected: If fields contradict each other.
        RequestError: If values are wrong together.
    """
    if body.top_logprobs and not body.logprobs:
        raise RequestRejected(
            "`top_logprobs` needs `logprobs` to be true.",
            "top_logprobs",
            code="invalid_value",
        )
    given = body.options or OllamaOptions.model_validate({})
    options = given.over(defaults)
    longest = options.num_predict
    if longest is None or longest < 0:
        longest = capabilities.max_new_tokens
    stop = options.stop
    if body.format and given.stop is None:
        # The format says where an answer ends.
        stop = None
    optional: dict[str, Any] = {
        "max_new_tokens": longest,
        "temperature": options.temperature,
        "top_k": -1 if options.top_k == 0 else options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "seed": None if options.seed in (None, -1) else options.seed % 2**63,
        "stop": [stop] if isinstance(stop, str) else stop,
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        **_penalties(options),
    }
    return Sampling(
        **{name: value for name, value in optional.items() if value is not None}
    )


def _penalties(options: OllamaOptions) -> dict[str, Any]:
    """Returns the penalties, which count the whole text.

    Raises:
        RequestRejected: If they are to count a part of it.
    """
    last = options.repeat_last_n
    if last == 0:
        return {}
    on = [
        name
        for name, off in _NO_PENALTY.items()
        if (value := getattr(options, name)) is not None and value != off
    ]
    if on and last not in (None, -1):
        raise RequestRejected(
            f"`options.repeat_last_n` can't be {last} beside `options.{on[0]}`: "
            "penalties count the whole text. Leave it out, or set it to -1.",
            "options.repeat_last_n",
            code="unsupported_parameter",
        )
    return {
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
