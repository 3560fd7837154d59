"""A moderation's body to requests of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.sampling_params import MAX_LOGPROBS, Sampling
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.content import ImagePart, ImageUrl
from mllama.server.dialects.openai.moderations.answers import InputType
from mllama.server.dialects.openai.moderations.body import ModerationBody
from mllama.server.dialects.openai.moderations.verdict import longest_verdict
from mllama.server.model_names import MODERATION_NAMES, check_model
from mllama.server.request_images import ImageReference, check_image_count

_GUARD: Final = "meta-llama/Llama-Guard-3-11B-Vision"


def check_moderation(body: ModerationBody, capabilities: ServerCapabilities) -> None:
    """Checks what the model of a body alone can't know.

    Raises:
        RequestRejected: If the served model isn't the one asked for or judges nothing,
            or there are too many images.
    """
    if body.model is None or not MODERATION_NAMES.fullmatch(body.model):
        check_model(body.model, capabilities.model_name)
    if not capabilities.hazards:
        raise RequestRejected(
            f"The served model {capabilities.model_name!r} is no Llama Guard: its chat "
            "template lists no hazards (S1, S2, ...) to look for. Serve one: mllama "
            f"serve --model-path {_GUARD}",
            "model",
            code="model_not_found",
            status=404,
        )
    count = len(image_references(body))
    check_image_count(count, capabilities.max_images, "input")


def image_references(body: ModerationBody) -> list[ImageReference]:
    """Returns the images of a body, in order."""
    found = []
    for index, part in enumerate(body.input):
        if isinstance(part, ImagePart):
            source = part.image_url
            url = source.url if isinstance(source, ImageUrl) else source
            found.append(ImageReference(f"input[{index}].image_url", url))
    return found


def contents(body: ModerationBody) -> list[str | list[dict[str, Any]]]:
    """Returns the contents of the messages to judge, each with a result of its own."""
    if isinstance(body.input, str):
        return [body.input]
    texts = [each for each in body.input if isinstance(each, str)]
    parts: list[dict[str, Any]] = [
        {"type": "image"}
        if isinstance(each, ImagePart)
        else {"type": "text", "text": each.text}
        for each in body.input
        if not isinstance(each, str)
    ]
    return [*texts, *([parts] if parts else [])]


def input_types(content: str | list[dict[str, Any]]) -> Sequence[InputType]:
    """Returns the kinds of input in a content."""
    if isinstance(content, str):
        return ["text"]
    kinds: tuple[InputType, ...] = ("text", "image")
    return [kind for kind in kinds if any(part["type"] == kind for part in content)]


def prompt_of(content: str | list[dict[str, Any]]) -> ChatPrompt:
    """Returns the conversation in which the model judges a user's message."""
    return ChatPrompt(messages=[{"role": "user", "content": content}])


def verdict_sampling(capabilities: ServerCapabilities) -> Sampling:
    """Returns how the tokens of a verdict are chosen: the likeliest, unpenalized."""
    return Sampling(
        max_new_tokens=longest_verdict(capabilities.hazards),
        temperature=0.0,
        repetition_penalty=1.0,
        logprobs=MAX_LOGPROBS,
    )
