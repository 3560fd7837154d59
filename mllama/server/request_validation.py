"""What the server refuses, so that nothing a client asks for is silently ignored.

MAX Serve's schema accepts every field of OpenAI's and acts on some.  A field that
changes the answer and that nothing here acts on is refused by name.  Fields that are
hints or bookkeeping (``user``, ``metadata``, ``detail`` of an image, ...) pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
INVOCATIONS = "/invocations"
"""SageMaker's name for a chat completion."""

CHECKED_PATHS = frozenset({CHAT, COMPLETIONS, INVOCATIONS})

UNAVAILABLE_PREFIXES = (
    "/v1/embeddings",
    "/v1/audio",
    "/v1/decisions",
    "/v1/systemone",
)
"""Routes that MAX Serve always has and that a chat model can't answer."""

MAX_SEED = 2**63 - 1

_SEED_FOR_ZERO = 2**62
"""MAX takes a seed of 0 for none at all, so that 0 is given another number."""

_ANSWER_LIMITS = ("max_tokens", "max_completion_tokens")

_SAMPLING_FIELDS = ("temperature", "top_p", "min_p", "seed")

PUBLISHED_NAMES = tuple(
    f"meta-llama/Llama-3.2-{size}-Vision{tuning}"
    for size in ("11B", "90B")
    for tuning in ("", "-Instruct")
)
"""The names of the published weights, by which any checkpoint of the family answers:
clients and examples are written with them."""


@dataclass(frozen=True)
class ServerCapabilities:
    """What the running server can do.

    Attributes:
        model_name: The served model's name.
        other_names: Names of adapters.
        vocabulary: Token ids are below this.
        penalties: Whether it was started with ``--enable-penalties``.
        min_tokens: Whether it was started with ``--enable-min-tokens``.
        tool_parser: Whether it was started with ``--tool-parser``.
        reasoning_parser: Whether it was started with ``--reasoning-parser``.
        greedy: Whether it is greedy unless a request says otherwise.
        local_images: Whether it may read images from its own disk.
        max_new_tokens: Longest answer to a request that sets no limit; None is the
            context's.
    """

    model_name: str
    vocabulary: int
    other_names: tuple[str, ...] = ()
    penalties: bool = False
    min_tokens: bool = False
    tool_parser: bool = False
    reasoning_parser: bool = False
    greedy: bool = False
    local_images: bool = False
    max_new_tokens: int | None = None


class RequestRejected(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        param: The field at fault, or "".
    """

    def __init__(self, message: str, param: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


def served_name(name: Any, features: ServerCapabilities) -> Any:
    """The name to give MAX for the name in a request.

    Raises:
        RequestRejected: If no model of this name is served.
    """
    if not isinstance(name, str) or name in features.other_names:
        return name  # MAX says what is wrong with anything but a string.
    if name in ("", features.model_name, *PUBLISHED_NAMES):
        return features.model_name
    raise RequestRejected(
        f"The model {name!r} does not exist; this server serves "
        f"{features.model_name!r}.",
        "model",
        404,
    )


def adapted(body: Mapping[str, Any], features: ServerCapabilities) -> dict[str, Any]:
    """A checked request in the terms that MAX understands as the client means them.

    A client of a greedy server that asks for sampling, by a temperature for one, gets
    sampling from all tokens unless it limits them itself.

    Raises:
        RequestRejected: If no model of the request's name is served.
    """
    changed = {**body, "model": served_name(body.get("model"), features)}
    if body.get("seed") == 0:
        changed["seed"] = _SEED_FOR_ZERO
    top_k = body.get("top_k")
    samples = any(body.get(name) is not None for name in _SAMPLING_FIELDS)
    if isinstance(top_k, int):
        # MAX reserves memory for as many candidates as it is told.
        changed["top_k"] = -1 if top_k >= features.vocabulary else top_k
    elif top_k is None and samples and features.greedy:
        changed["top_k"] = -1
    is_limited = any(body.get(name) is not None for name in _ANSWER_LIMITS)
    if features.max_new_tokens is not None and not is_limited:
        changed["max_tokens"] = features.max_new_tokens
    return changed


def check(path: str, body: Mapping[str, Any], features: ServerCapabilities) -> None:
    """Checks a request for what the server would ignore or could not survive.

    Args:
        path: The request's path, one of ``CHECKED_PATHS``.
        body: Its JSON object.
        features: What the server can do.

    Raises:
        RequestRejected: If the request asks for something that it would not get.
    """
    _check_choices(body)
    _check_numbers(body)
    _check_flags(body, features)
    if path == COMPLETIONS:
        _check_completion(body, features)
    else:
        _check_chat(body, features)


def _check_choices(body: Mapping[str, Any]) -> None:
    for field in ("n", "best_of"):
        if body.get(field) not in (None, 1):
            raise RequestRejected(
                f"`{field}` above 1 is not supported: one choice is generated.", field
            )
    if body.get("logit_bias"):
        raise RequestRejected("`logit_bias` is not supported.", "logit_bias")


def _check_numbers(body: Mapping[str, Any]) -> None:
    seed = body.get("seed")
    if isinstance(seed, int) and not 0 <= seed <= MAX_SEED:
        raise RequestRejected("`seed` must be from 0 to 2^63 - 1.", "seed")
    for field in _ANSWER_LIMITS:
        limit = body.get(field)
        if isinstance(limit, int) and limit < 1:
            raise RequestRejected(f"`{field}` must be at least 1.", field)
    for field, least, most in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("min_p", 0, 1),
        ("frequency_penalty", -2, 2),
        ("presence_penalty", -2, 2),
    ):
        value = body.get(field)
        if isinstance(value, (int, float)) and not least <= value <= most:
            raise RequestRejected(f"`{field}` must be from {least} to {most}.", field)
    top_k = body.get("top_k")
    if isinstance(top_k, int) and top_k < -1:
        raise RequestRejected("`top_k` must be -1 or at least 0.", "top_k")
    penalty = body.get("repetition_penalty")
    if isinstance(penalty, (int, float)) and not 0 < penalty < float("inf"):
        raise RequestRejected(
            "`repetition_penalty` must be above 0.", "repetition_penalty"
        )


def _check_flags(body: Mapping[str, Any], features: ServerCapabilities) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "repetition_penalty": 1,
    }
    for field, value in neutral.items():
        if body.get(field) not in (None, value) and not features.penalties:
            raise RequestRejected(
                f"`{field}` needs a server started with --enable-penalties.", field
            )
    if body.get("min_tokens") and not features.min_tokens:
        raise RequestRejected(
            "`min_tokens` needs a server started with --enable-min-tokens.",
            "min_tokens",
        )
    for field in ("reasoning", "thinking_temperature"):
        if body.get(field) is not None and not features.reasoning_parser:
            raise RequestRejected(f"`{field}` is not supported by this model.", field)


def _check_completion(body: Mapping[str, Any], features: ServerCapabilities) -> None:
    if body.get("suffix"):
        raise RequestRejected("`suffix` is not supported.", "suffix")
    if body.get("echo"):
        raise RequestRejected("`echo` is not supported.", "echo")
    prompt = body.get("prompt")
    if not isinstance(prompt, list):
        return
    if not prompt:
        raise RequestRejected("`prompt` must not be empty.", "prompt")
    several = not all(isinstance(entry, int) for entry in prompt)
    if several and len(prompt) > 1 and body.get("stream"):
        raise RequestRejected("Only one prompt at a time can be streamed.", "prompt")
    for entry in prompt if several else [prompt]:
        if isinstance(entry, list):
            _check_token_ids("prompt", entry, features)


def _check_chat(body: Mapping[str, Any], features: ServerCapabilities) -> None:
    for field in ("audio", "functions", "function_call", "prediction", "moderation"):
        if body.get(field):
            raise RequestRejected(f"`{field}` is not supported.", field)
    if body.get("modalities") not in (None, ["text"]):
        raise RequestRejected(
            "`modalities` other than text is not supported.", "modalities"
        )
    for field in ("reasoning_effort", "verbosity", "web_search_options"):
        if body.get(field) not in (None, "none", "medium"):
            raise RequestRejected(f"`{field}` is not supported by this model.", field)
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise RequestRejected(
            "`top_logprobs` needs `logprobs` to be true.", "top_logprobs"
        )
    choice = body.get("tool_choice")
    if choice not in (None, "none", "auto") and not features.tool_parser:
        raise RequestRejected(
            "`tool_choice` that requires a tool needs a server started with "
            "--tool-parser.",
            "tool_choice",
        )
    if body.get("prompt_tokens") is not None:
        _check_token_ids("prompt_tokens", body["prompt_tokens"], features)
    messages = body.get("messages")
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, Mapping):
            _check_parts(
                f"messages[{number}].content", message.get("content"), features
            )


def _check_parts(place: str, content: Any, features: ServerCapabilities) -> None:
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
            if image["url"].startswith("file:") and not features.local_images:
                raise RequestRejected(
                    "This server may not read images from its disk "
                    "(MAX_SERVE_ALLOWED_IMAGE_ROOTS lists the directories it may); "
                    "send a data: or http(s): URL.",
                    place,
                )


def _check_token_ids(field: str, ids: Any, features: ServerCapabilities) -> None:
    def valid(entries: Iterable[Any]) -> bool:
        return all(
            isinstance(entry, int)
            and not isinstance(entry, bool)
            and 0 <= entry < features.vocabulary
            for entry in entries
        )

    if not isinstance(ids, list) or not ids or not valid(ids):
        raise RequestRejected(
            f"`{field}` must hold token ids from 0 to {features.vocabulary - 1}.",
            field,
        )
