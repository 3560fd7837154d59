"""Messages and prompts of Ollama's bodies to prompts of this package, with images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.dialects.ollama.bodies import OllamaChatBody, OllamaGenerateBody
from mllama.server.dialects.ollama.messages import OllamaMessage
from mllama.server.request_images import ImageReference

_PLACE: Final = "[img]"
"""Stands for an image in a text."""

_IMAGE_TOKEN: Final = "<|image|>"


def chat_images(body: OllamaChatBody) -> list[ImageReference]:
    """Returns the images of a conversation, in the order of the prompt."""
    return [
        reference
        for number, message in enumerate(body.messages or ())
        for reference in _ordered(
            message.content or "", message.images or (), f"messages[{number}].images"
        )
    ]


def generate_images(body: OllamaGenerateBody) -> list[ImageReference]:
    """Returns the images of a prompt, in their order there."""
    return _ordered(body.prompt or "", body.images or (), "images")


def _ordered(text: str, images: Sequence[str], path: str) -> list[ImageReference]:
    found = [
        ImageReference(f"{path}[{index}]", source)
        for index, source in enumerate(images)
    ]
    placed = min(text.count(_PLACE), len(images))
    # Images without a place stand before the text.
    return found[placed:] + found[:placed]


def chat_prompt_of(
    body: OllamaChatBody, *, system: str, continues_messages: bool
) -> ChatPrompt:
    """Returns the prompt of a conversation.

    An answer goes on with the last message if that is the assistant's, as in Ollama.

    Args:
        body: The body, with messages.
        system: The model's own system prompt, for conversations without one.
        continues_messages: Whether the chat template lets an answer go on with a
            message.

    Raises:
        RequestRejected: If a message has a field that isn't for its role, calls of
            tools and their results don't match, or there are only results.
        RequestError: If two calls of a message have the same id.
    """
    messages = _MessageTranslation().translate(body.messages or ())
    if system and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    last = messages[-1] if messages else {}
    is_begun = last.get("role") == "assistant" and "tool_calls" not in last
    prompt = ChatPrompt(
        messages=messages,
        tools=[
            {
                "type": "function",
                "function": tool.function.model_dump(exclude_unset=True),
            }
            for tool in body.tools or ()
        ],
        continue_final_message=is_begun and continues_messages,
    )
    prompt.check_turn(continues_messages)
    return prompt


def generate_prompt_of(body: OllamaGenerateBody, *, system: str) -> ChatPrompt | str:
    """Returns the prompt of a body for ``/api/generate``, raw or as a conversation.

    Args:
        body: The body, with a prompt.
        system: The model's own system prompt, for bodies without one.

    Raises:
        RequestRejected: If a raw prompt has a system prompt.
    """
    text, images = body.prompt or "", body.images or ()
    if body.raw:
        if body.system:
            raise RequestRejected(
                "`system` can't be combined with `raw`: write it into the prompt.",
                "system",
                code="invalid_value",
            )
        return "".join(
            part.get("text", _IMAGE_TOKEN) for part in _parts(text, len(images))
        )
    messages: list[dict[str, Any]] = []
    if system := body.system or system:
        messages.append({"role": "system", "content": system})
    content = _parts(text, len(images)) if images else text
    return ChatPrompt(messages=[*messages, {"role": "user", "content": content}])


def _parts(text: str, images: int) -> list[dict[str, Any]]:
    """Returns the parts of a message: texts, and images in their places."""
    texts = text.split(_PLACE, images)
    parts: list[dict[str, Any]] = [
        {"type": "image"} for _ in range(images - len(texts) + 1)
    ]
    for number, piece in enumerate(texts):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


class _MessageTranslation:
    """Translates messages, and finds the call of each result."""

    def __init__(self) -> None:
        # The tools of calls without a result, and where the body has them, by ids.
        self._waiting: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self._has_ids = False
        self._has_calls = False

    def translate(self, messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
        """Returns messages in the form of ``ChatPrompt``."""
        found = []
        for number, message in enumerate(messages):
            path = f"messages[{number}]"
            _check_role(message, path)
            plain: dict[str, Any] = {"role": message.role, "content": _content(message)}
            if message.name is not None:
                plain["name"] = message.name
            if message.role == "tool":
                # Clients that cut the beginning of a long conversation, such as Home
                # Assistant, may leave a result without its call.
                if not self._has_calls:
                    continue
                plain["tool_call_id"] = self._answered(message, path)
                if message.tool_name is not None:
                    plain["name"] = message.tool_name
            else:
                self._check_answered()
            if message.tool_calls:
                plain["tool_calls"] = self._calls(message, number)
            found.append(plain)
        self._check_answered()
        if messages and not found:
            raise RequestRejected(
                "`messages` has only results of tools, whose calls are missing.",
                "messages",
                code="invalid_value",
            )
        return found

    def _check_answered(self) -> None:
        for call in self._waiting:
            path = self._places[call]
            raise RequestRejected(
                f"`{path}` has no message of the role tool with its result.",
                path,
                code="invalid_value",
            )

    def _calls(self, message: OllamaMessage, number: int) -> list[dict[str, Any]]:
        calls = message.tool_calls or ()
        self._has_calls = True
        self._has_ids = any(call.id is not None for call in calls)
        plain = [
            {
                "id": call.id or f"call_{number}_{index}",
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": call.function.arguments or {},
                },
            }
            for index, call in enumerate(calls)
        ]
        for index, call in enumerate(plain):
            self._waiting[str(call["id"])] = calls[index].function.name
            self._places[str(call["id"])] = f"messages[{number}].tool_calls[{index}]"
        return plain

    def _answered(self, message: OllamaMessage, path: str) -> str:
        """Returns the id of the call that a message has the result of.

        Raises:
            RequestRejected: If there is none.
        """
        found, field = self._find(message)
        if found is None:
            raise RequestRejected(
                f"`{path}{field}` is for no call in the last message of the assistant "
                "before it that has no result yet.",
                f"{path}{field}",
                code="invalid_value",
            )
        del self._waiting[found]
        return found

    def _find(self, message: OllamaMessage) -> tuple[str | None, str]:
        """Returns the id of a result's call, and the field that says it."""
        if message.tool_call_id is not None and self._has_ids:
            is_there = message.tool_call_id in self._waiting
            return (message.tool_call_id if is_there else None), ".tool_call_id"
        name, field = message.tool_name, ".tool_name"
        if name is None and message.name is not None:
            name, field = message.name, ".name"
        if name is None:
            return next(iter(self._waiting), None), ""
        named = (call for call, tool in self._waiting.items() if tool == name)
        return next(named, None), field


def _content(message: OllamaMessage) -> str | list[dict[str, Any]]:
    text = message.content or ""
    return _parts(text, len(message.images)) if message.images else text


def _check_role(message: OllamaMessage, path: str) -> None:
    """Refuses fields that would be lost, as they are for another role."""
    for name, role in (
        ("images", "user"),
        ("tool_calls", "assistant"),
        ("tool_name", "tool"),
        ("tool_call_id", "tool"),
    ):
        if getattr(message, name) and message.role != role:
            raise RequestRejected(
                f"`{path}.{name}` is for messages of the role {role}, not "
                f"{message.role}.",
                f"{path}.{name}",
                code="invalid_value",
            )
