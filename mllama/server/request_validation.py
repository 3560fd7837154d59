"""Validates requests, so that the server never silently ignores a parameter.

MAX Serve accepts every field of OpenAI's schema but implements only some.  A request
with a field that would change the answer, and that neither MAX nor this package
implements, is rejected with the field's name.  Hints and bookkeeping (``user``,
``metadata``, an image's ``detail``, ...) are accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
INVOCATIONS = "/invocations"
"""The path that SageMaker uses for chat completions."""

VALIDATED_PATHS = frozenset({CHAT, COMPLETIONS, INVOCATIONS})

UNAVAILABLE_PREFIXES = (
    "/v1/embeddings",
    "/v1/audio",
    "/v1/decisions",
    "/v1/systemone",
)
"""Routes that MAX Serve always offers, but a chat model can't answer."""

MAX_SEED = 2**63 - 1

_SEED_FOR_ZERO = 2**62
"""The seed used in place of 0, which MAX treats as no seed."""

_LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")

_SAMPLING_FIELDS = ("temperature", "top_p", "min_p", "seed")

PUBLISHED_NAMES = tuple(
    f"meta-llama/Llama-3.2-{size}-Vision{tuning}"
    for size in ("11B", "90B")
    for tuning in ("", "-Instruct")
)
"""The published models' names, which the server accepts for any checkpoint, because
clients and examples use them."""


@dataclass(frozen=True)
class ServerCapabilities:
    """Features and limits of the running server.

    Attributes:
        model_name: Name of the served model.
        vocabulary: Size of the vocabulary; token ids are smaller.
        penalties: Whether it runs on a CPU or was started with
            ``--enable-penalties``.
        min_tokens: Whether it runs on a CPU or was started with
            ``--enable-min-tokens``.
        tool_parser: Whether the server was started with ``--tool-parser``.
        reasoning_parser: Whether the server was started with ``--reasoning-parser``.
        greedy: Whether decoding is greedy by default.
        local_images: Whether requests may name images on the server's disk.
        max_new_tokens: Maximum length of an answer to a request that sets no limit, in
            tokens; None allows answers up to the maximum length of a sequence.
    """

    model_name: str
    vocabulary: int
    penalties: bool = False
    min_tokens: bool = False
    tool_parser: bool = False
    reasoning_parser: bool = False
    greedy: bool = False
    local_images: bool = False
    max_new_tokens: int | None = None


class RequestRejected(Exception):
    """A request that the server rejects.

    Attributes:
        status: HTTP status of the response.
        param: Name of the invalid field, or "".
    """

    def __init__(self, message: str, param: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


def resolve_model_name(name: Any, capabilities: ServerCapabilities) -> Any:
    """Returns MAX's name of the model that a request names.

    Raises:
        RequestRejected: If the server has no model of this name.
    """
    if not isinstance(name, str):
        return name  # MAX explains what is wrong with a value that is not a string.
    if name in ("", capabilities.model_name, *PUBLISHED_NAMES):
        return capabilities.model_name
    raise RequestRejected(
        f"The model {name!r} does not exist; this server serves "
        f"{capabilities.model_name!r}.",
        "model",
        404,
    )


def normalize(
    body: Mapping[str, Any], capabilities: ServerCapabilities
) -> dict[str, Any]:
    """Returns a valid request in a form that MAX interprets as the client means it.

    On a server that is greedy by default, a request that sets a sampling field, such as
    ``temperature``, samples from the whole vocabulary unless it sets ``top_k``.

    Raises:
        RequestRejected: If the server has no model of the request's name.
    """
    normalized = {**body, "model": resolve_model_name(body.get("model"), capabilities)}
    if body.get("seed") == 0:
        normalized["seed"] = _SEED_FOR_ZERO
    top_k = body.get("top_k")
    wants_sampling = any(body.get(name) is not None for name in _SAMPLING_FIELDS)
    if isinstance(top_k, int):
        # MAX reserves memory for ``top_k`` candidates, however many these are.
        normalized["top_k"] = -1 if top_k >= capabilities.vocabulary else top_k
    elif top_k is None and wants_sampling and capabilities.greedy:
        normalized["top_k"] = -1
    is_limited = any(body.get(name) is not None for name in _LENGTH_FIELDS)
    if capabilities.max_new_tokens is not None and not is_limited:
        normalized["max_tokens"] = capabilities.max_new_tokens
    return normalized


def validate(
    path: str, body: Mapping[str, Any], capabilities: ServerCapabilities
) -> None:
    """Checks that a request has no field that the server would ignore or fail on.

    Args:
        path: The request's path, one of ``VALIDATED_PATHS``.
        body: The request's JSON object.
        capabilities: Features and limits of the server.

    Raises:
        RequestRejected: If a field is invalid or not supported.
    """
    _validate_choices(body)
    _validate_numbers(body)
    _validate_optional_features(body, capabilities)
    if path == COMPLETIONS:
        _validate_completion(body, capabilities)
    else:
        _validate_chat(body, capabilities)


def _validate_choices(body: Mapping[str, Any]) -> None:
    for field in ("n", "best_of"):
        if body.get(field) not in (None, 1):
            raise RequestRejected(
                f"`{field}` above 1 is not supported: the server returns one choice.",
                field,
            )
    if body.get("logit_bias"):
        raise RequestRejected("`logit_bias` is not supported.", "logit_bias")


def _validate_numbers(body: Mapping[str, Any]) -> None:
    seed = body.get("seed")
    if isinstance(seed, int) and not 0 <= seed <= MAX_SEED:
        raise RequestRejected("`seed` must be from 0 to 2^63 - 1.", "seed")
    for field in _LENGTH_FIELDS:
        limit = body.get(field)
        if isinstance(limit, int) and limit < 1:
            raise RequestRejected(f"`{field}` must be at least 1.", field)
    for field, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("min_p", 0, 1),
        ("frequency_penalty", -2, 2),
        ("presence_penalty", -2, 2),
    ):
        value = body.get(field)
        if isinstance(value, (int, float)) and not low <= value <= high:
            raise RequestRejected(f"`{field}` must be from {low} to {high}.", field)
    top_k = body.get("top_k")
    if isinstance(top_k, int) and top_k < -1:
        raise RequestRejected("`top_k` must be -1 or at least 0.", "top_k")
    penalty = body.get("repetition_penalty")
    if isinstance(penalty, (int, float)) and not 0 < penalty < float("inf"):
        raise RequestRejected(
            "`repetition_penalty` must be greater than 0.", "repetition_penalty"
        )


def _validate_optional_features(
    body: Mapping[str, Any], capabilities: ServerCapabilities
) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "repetition_penalty": 1,
    }
    for field, value in neutral.items():
        if body.get(field) not in (None, value) and not capabilities.penalties:
            raise RequestRejected(
                f"`{field}` on a GPU needs a server started with --enable-penalties.",
                field,
            )
    if body.get("min_tokens") and not capabilities.min_tokens:
        raise RequestRejected(
            "`min_tokens` on a GPU needs a server started with --enable-min-tokens.",
            "min_tokens",
        )
    for field in ("reasoning", "thinking_temperature"):
        if body.get(field) is not None and not capabilities.reasoning_parser:
            raise RequestRejected(f"`{field}` is not supported by this model.", field)


def _validate_completion(
    body: Mapping[str, Any], capabilities: ServerCapabilities
) -> None:
    if body.get("suffix"):
        raise RequestRejected("`suffix` is not supported.", "suffix")
    if body.get("echo"):
        raise RequestRejected("`echo` is not supported.", "echo")
    prompt = body.get("prompt")
    if not isinstance(prompt, list):
        return
    if not prompt:
        raise RequestRejected("`prompt` must not be empty.", "prompt")
    is_batch = not all(isinstance(entry, int) for entry in prompt)
    if is_batch and len(prompt) > 1 and body.get("stream"):
        raise RequestRejected("Only one prompt at a time can be streamed.", "prompt")
    for entry in prompt if is_batch else [prompt]:
        if isinstance(entry, list):
            _validate_token_ids("prompt", entry, capabilities)


def _validate_chat(body: Mapping[str, Any], capabilities: ServerCapabilities) -> None:
    for field in ("audio", "functions", "function_call", "prediction", "moderation"):
        if body.get(field):
            raise RequestRejected(f"`{field}` is not supported.", field)
    if body.get("modalities") not in (None, ["text"]):
        raise RequestRejected(
            "`modalities` other than text are not supported.", "modalities"
        )
    for field in ("reasoning_effort", "verbosity", "web_search_options"):
        if body.get(field) not in (None, "none", "medium"):
            raise RequestRejected(f"`{field}` is not supported by this model.", field)
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise RequestRejected(
            "`top_logprobs` needs `logprobs` to be true.", "top_logprobs"
        )
    choice = body.get("tool_choice")
    if choice not in (None, "none", "auto") and not capabilities.tool_parser:
        raise RequestRejected(
            "A `tool_choice` that requires a tool needs a server started with "
            "--tool-parser.",
            "tool_choice",
        )
    if body.get("prompt_tokens") is not None:
        _validate_token_ids("prompt_tokens", body["prompt_tokens"], capabilities)
    messages = body.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, Mapping):
            _validate_content(
                f"messages[{index}].content", message.get("content"), capabilities
            )


def _validate_content(
    place: str, content: Any, capabilities: ServerCapabilities
) -> None:
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "image_url"):
            raise RequestRejected(
                f"A content part of type {kind!r} is not supported; "
                "use text or image_url.",
                place,
            )
        if kind == "image_url":
            image = part.get("image_url")
            if not isinstance(image, Mapping) or not isinstance(image.get("url"), str):
                raise RequestRejected(
                    'An image_url part must be {"type": "image_url", "image_url": '
                    '{"url": ...}}.',
                    place,
                )
            if image.get("max_long_side_pixel") is not None:
                raise RequestRejected("`max_long_side_pixel` is not supported.", place)
            if image["url"].startswith("file:") and not capabilities.local_images:
                raise RequestRejected(
                    "This server may not read images from its disk "
                    "(MAX_SERVE_ALLOWED_IMAGE_ROOTS lists the directories it may); "
                    "send a data: or http(s): URL.",
                    place,
                )


def _validate_token_ids(field: str, ids: Any, capabilities: ServerCapabilities) -> None:
    def valid(entries: Iterable[Any]) -> bool:
        return all(
            isinstance(entry, int)
            and not isinstance(entry, bool)
            and 0 <= entry < capabilities.vocabulary
            for entry in entries
        )

    if not isinstance(ids, list) or not ids or not valid(ids):
        raise RequestRejected(
            f"`{field}` must be a list of token ids from 0 to "
            f"{capabilities.vocabulary - 1}.",
            field,
        )
