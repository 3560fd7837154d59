"""Short texts in place of a conversation's own, to find what a template shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mllama.max_model.chat_template import ChatTemplateError
from mllama.max_model.message_forms import Message, count_images

_PROBE: Final = "mllamaprobe{}z"
"""A text that no template changes beyond its case."""

_ANY_PROBE: Final = re.compile(_PROBE.format(r"\d+"))

_DUMPED_PART: Final = re.compile(r"""["']text["']:\s{0,8}["']$""")
"""What stands before a text if a template writes a list of parts as data."""

_DUMPED_PART_LENGTH: Final = 24


class TemplateProbe:
    """A conversation with short texts of its own, to find which of them are shown.

    Args:
        messages: The conversation, with content as lists of parts.
        tools: Tools that the template describes to the model.

    Attributes:
        messages: The messages with the short texts.
        tools: The tools with the short texts.
    """

    def __init__(
        self, messages: list[Message], tools: list[Mapping[str, Any]] | None
    ) -> None:
        self._places: dict[str, tuple[str, str]] = {}
        self._images = count_images(messages)
        self.messages = [
            self._message(message, f"message {number}")
            for number, message in enumerate(messages, 1)
        ]
        self.tools = tools and [
            self._tool(tool, f"tool {number}") for number, tool in enumerate(tools, 1)
        ]

    def problems(self, rendered: str, images: int) -> list[ChatTemplateError]:
        """Returns what is wrong with a rendered prompt, the first problem first.

        Args:
            rendered: The prompt.
            images: Its number of image placeholders.
        """
        lowered = rendered.lower()
        # All in one pass: a conversation may have thousands of texts.
        starts: dict[str, int] = {}
        for match in _ANY_PROBE.finditer(lowered):
            starts.setdefault(match[0], match.start())
        problems = []
        for text, (place, param) in self._places.items():
            start = starts.get(text)
            if start is None or _DUMPED_PART.search(
                lowered[max(start - _DUMPED_PART_LENGTH, 0) : start]
            ):
                problems.append(
                    ChatTemplateError(f"this chat template leaves out {place}", param)
                )
        if images != self._images:
            problems.append(wrong_images(images, self._images))
        return problems

    def _text(self, place: str, param: str = "messages") -> str:
        text = _PROBE.format(len(self._places))
        self._places[text] = place, param
        return text

    def _message(self, message: Message, place: str) -> Message:
        probe = {
            **message,
            "content": [
                {**part, "text": self._text(f"the text of {place}")}
                if part["type"] == "text" and part["text"].strip()
                else part
                for part in message["content"]
            ],
        }
        if "tool_calls" in message:
            probe["tool_calls"] = [
                self._call(call, f"the tool calls of {place}")
                for call in message["tool_calls"]
            ]
        return probe

    def _call(self, call: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        function = call["function"]
        arguments = {"argument": self._text(place)} if function["arguments"] else {}
        return {
            **call,
            "function": {
                **function,
                "name": self._text(place),
                "arguments": arguments,
            },
        }

    def _tool(self, tool: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        name = self._text(place, "tools")
        function = tool.get("function")
        if isinstance(function, Mapping):
            return {**tool, "function": {**function, "name": name}}
        return {**tool, "name": name}


def wrong_images(placeholders: int, images: int) -> ChatTemplateError:
    """Returns the error of a prompt with another number of images than the messages.

    Args:
        placeholders: The number in the prompt.
        images: The number in the messages.
    """
    if placeholders < images:
        return ChatTemplateError(
            f"this chat template shows {placeholders} of {images} images"
        )
    return ChatTemplateError(
        f"this chat template writes {placeholders} image placeholders for "
        f"{images} images"
    )
