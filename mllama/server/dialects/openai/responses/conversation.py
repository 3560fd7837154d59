"""Items of a response's input to messages and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mllama.errors import quoted
from mllama.requests.tool_messages import read_arguments
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.dialects.openai.responses.body import ResponsesBody
from mllama.server.dialects.openai.responses.content import (
    InputImage,
    OutputReasoningPart,
    OutputRefusalPart,
)
from mllama.server.dialects.openai.responses.input_items import (
    InputAssistantMessage,
    InputFunctionCall,
    InputFunctionResult,
    InputReasoning,
    InputSystemMessage,
    InputUserMessage,
)
from mllama.server.request_images import ImageReference


def image_references(body: ResponsesBody) -> list[ImageReference]:
    """Returns the images of an input, in the order of the prompt."""
    return [
        ImageReference(f"input[{number}].content[{index}].image_url", part.image_url)
        for number, item in enumerate(_items(body))
        if isinstance(item, InputUserMessage) and not isinstance(item.content, str)
        for index, part in enumerate(item.content)
        if isinstance(part, InputImage)
    ]


def messages_of(body: ResponsesBody) -> list[dict[str, Any]]:
    """Returns a conversation in the form of ``ChatPrompt``.

    Adjacent items of one answer, a message and calls, become one message.  Reasoning is
    left out, items and parts of messages.

    Raises:
        RequestRejected: If a call has no result, or a result no call.
        RequestError: If a call's arguments are no JSON object.
    """
    conversation = _Conversation()
    if body.instructions:
        conversation.add_message("system", body.instructions)
    if isinstance(body.input, str):
        conversation.add_message("user", body.input)
    for number, item in enumerate(_items(body)):
        path = f"input[{number}]"
        if isinstance(item, InputFunctionCall):
            conversation.add_call(item, path)
        elif isinstance(item, InputFunctionResult):
            conversation.add_result(item, path)
        elif isinstance(item, InputAssistantMessage) and not _is_reasoning(item):
            conversation.add_answer(_joined(item.content))
        elif isinstance(item, InputUserMessage):
            conversation.add_message("user", _user_content(item))
        elif isinstance(item, InputSystemMessage):
            conversation.add_message("system", _joined(item.content))
    conversation.end()
    return conversation.messages


def goes_on(body: ResponsesBody) -> bool:
    """Returns True if the answer goes on with the last item, a message cut short."""
    return any(
        isinstance(item, InputAssistantMessage)
        and item.status in ("in_progress", "incomplete")
        and not _is_reasoning(item)
        for item in _items(body)[-1:]
    )


def ends_in_answer(body: ResponsesBody) -> bool:
    """Returns True if the last item that isn't reasoning is the assistant's message."""
    items = [item for item in _items(body) if not _is_reasoning(item)]
    return bool(items) and isinstance(items[-1], InputAssistantMessage)


def _is_reasoning(item: Any) -> bool:
    """Returns True if an item has reasoning and nothing else."""
    if not isinstance(item, InputAssistantMessage):
        return isinstance(item, InputReasoning)
    parts = () if isinstance(item.content, str) else item.content
    return bool(parts) and all(isinstance(each, OutputReasoningPart) for each in parts)


def _items(body: ResponsesBody) -> Sequence[Any]:
    return () if isinstance(body.input, str) else body.input


class _Conversation:
    """Messages, of items one by one."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        # The answer that takes more items, and its calls that wait for a result.
        self._answer: dict[str, Any] | None = None
        self._waiting: dict[str, str] = {}

    def add_message(self, role: str, content: Any) -> None:
        self.end()
        self.messages.append({"role": role, "content": content})

    def add_answer(self, text: str) -> None:
        if self._answer is not None and self._waiting:
            self._answer["content"] += text
        else:
            self._begin_answer(text)

    def add_call(self, item: InputFunctionCall, path: str) -> None:
        arguments = read_arguments(item.arguments, f"{path}.arguments")
        if self._answer is None:
            self._begin_answer("")
        if item.call_id in self._waiting:
            raise _wrong(path, "is that of another call of the same answer")
        self._waiting[item.call_id] = path
        function = {"name": item.name, "arguments": arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        assert self._answer is not None
        self._answer.setdefault("tool_calls", []).append(call)

    def add_result(self, item: InputFunctionResult, path: str) -> None:
        if item.call_id not in self._waiting:
            raise _wrong(
                path,
                "must be that of a function_call in the answer before it, not "
                f"{quoted(item.call_id)}",
            )
        del self._waiting[item.call_id]
        self._answer = None
        self.messages.append(
            {
                "role": "tool",
                "content": _joined(item.output),
                "tool_call_id": item.call_id,
            }
        )

    def _begin_answer(self, text: str) -> None:
        self.end()
        self._answer = {"role": "assistant", "content": text}
        self.messages.append(self._answer)

    def end(self) -> None:
        """Ends an answer, whose calls must have their results.

        Raises:
            RequestRejected: If one doesn't.
        """
        self._answer = None
        for path in self._waiting.values():
            raise RequestRejected(
                f"`{path}` has no function_call_output with its `call_id` right after "
                "the answer.",
                path,
                code="invalid_value",
            )


def _wrong(path: str, reason: str) -> RequestRejected:
    path = f"{path}.call_id"
    return RequestRejected(f"`{path}` {reason}.", path, code="invalid_value")


def _user_content(item: InputUserMessage) -> str | list[dict[str, Any]]:
    if isinstance(item.content, str):
        return item.content
    return [
        {"type": "image"}
        if isinstance(part, InputImage)
        else {"type": "text", "text": part.text}
        for part in item.content
    ]


def _joined(content: Any) -> str:
    """Returns the text of a content without images."""
    if isinstance(content, str):
        return content
    return "".join(
        part.refusal if isinstance(part, OutputRefusalPart) else part.text
        for part in content
        if not isinstance(part, OutputReasoningPart)
    )
