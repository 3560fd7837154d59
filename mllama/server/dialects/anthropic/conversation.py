"""A body's turns to the messages of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mllama.server.bodies.rejection import RequestRejected
from mllama.server.dialects.anthropic.content import (
    ImageBlock,
    SystemTurn,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
from mllama.server.dialects.anthropic.message_body import PromptBody

_BILLING_HEADER: Final = "x-anthropic-billing-header:"
"""How the block of a system prompt begins in which Claude Code keeps books.  It differs
in each request, so that no prefix would be cached."""

_BETWEEN_TURNS: Final = "\n\n"
"""What stands between the texts of two messages of the same role."""


@dataclass(frozen=True)
class Conversation:
    """The messages of a prompt.

    Attributes:
        messages: The messages, in the form of ``ChatPrompt``.
        places: Where the body has each of them, for errors.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, place: str, role: str, content: Any, **more: Any) -> None:
        """Adds a message."""
        self.messages.append({"role": role, "content": content, **more})
        self.places.append(place)

    @property
    def ends_in_answer(self) -> bool:
        """Returns True if the last message is the assistant's."""
        return self.messages[-1]["role"] == "assistant"


def read_conversation(body: PromptBody) -> Conversation:
    """Returns the messages of a body.

    Messages of the same role that follow each other are one.  The results of tools are
    messages of their own, before the rest of the user's turn.

    Raises:
        RequestRejected: If calls of tools and their results don't match.
    """
    conversation = Conversation()
    system = "".join(
        block.text
        for block in _blocks(body.system or "")
        if not block.text.startswith(_BILLING_HEADER)
    )
    if system:
        conversation.add("system", "system", system)
    calls: dict[str, str] = {}
    for turn in _merged_turns(body.messages):
        if turn.role == "user":
            _add_user_turn(conversation, turn, calls)
            calls = {}
            continue
        _check_answered(calls)
        if turn.role == "assistant":
            calls = _add_assistant_turn(conversation, turn)
        else:
            calls = {}
            conversation.add(turn.place, "system", _text_of(turn.blocks))
    _check_answered(calls)
    return conversation


@dataclass(frozen=True)
class _Turn:
    """Messages of the same role that follow each other.

    Attributes:
        role: Their role.
        place: Where the body has the first of them.
        blocks: Their blocks, each with its place.
    """

    role: str
    place: str
    blocks: list[tuple[str, Any]]


def _merged_turns(messages: Sequence[Turn]) -> list[_Turn]:
    """Returns turns, each of which has another role than the one before."""
    turns: list[_Turn] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        blocks = list(_placed_blocks(message, place))
        if (
            isinstance(message, SystemTurn)
            or not turns
            or (turns[-1].role != message.role)
        ):
            turns.append(_Turn(message.role, place, blocks))
            continue
        before = turns[-1].blocks
        if _is_text(before[-1:]) and _is_text(blocks[:1]):
            before.append((place, TextBlock(type="text", text=_BETWEEN_TURNS)))
        before += blocks
    return turns


def _placed_blocks(message: Turn, place: str) -> Iterable[tuple[str, Any]]:
    if isinstance(message.content, str):
        yield f"{place}.content", TextBlock(type="text", text=message.content)
        return
    for index, block in enumerate(message.content):
        yield f"{place}.content[{index}]", block


def _is_text(blocks: Sequence[tuple[str, Any]]) -> bool:
    return any(isinstance(block, TextBlock) and block.text for _, block in blocks)


def _blocks(texts: str | Sequence[TextBlock]) -> Sequence[TextBlock]:
    return [TextBlock(type="text", text=texts)] if isinstance(texts, str) else texts


def _text_of(blocks: Iterable[tuple[str, Any]]) -> str:
    return "".join(block.text for _, block in blocks if isinstance(block, TextBlock))


def _add_assistant_turn(conversation: Conversation, turn: _Turn) -> dict[str, str]:
    """Adds a turn of the assistant; returns the places of its calls by their ids.

    Raises:
        RequestRejected: If two calls have the same id.
    """
    places: dict[str, str] = {}
    calls = []
    for place, block in turn.blocks:
        if not isinstance(block, ToolUseBlock):
            continue
        if block.id in places:
            raise _wrong(f"{place}.id", "is that of another call in the turn")
        places[block.id] = place
        function = {"name": block.name, "arguments": block.input}
        calls.append({"id": block.id, "type": "function", "function": function})
    more = {"tool_calls": calls} if calls else {}
    conversation.add(turn.place, "assistant", _text_of(turn.blocks), **more)
    return places


def _add_user_turn(
    conversation: Conversation, turn: _Turn, calls: dict[str, str]
) -> None:
    """Adds a turn of the user: the results of tools, then their images and the rest.

    Args:
        conversation: Gets the messages.
        turn: The turn.
        calls: The places of the calls before it, by their ids.

    Raises:
        RequestRejected: If calls and results don't match.
    """
    parts: list[dict[str, Any]] = []
    waiting = dict(calls)
    images = 0
    for place, block in turn.blocks:
        if not isinstance(block, ToolResultBlock):
            parts += _parts([block])
            continue
        if len(parts) > images:
            raise _wrong(place, "must stand before the text and images of the turn")
        if waiting.pop(block.tool_use_id, None) is None:
            raise _wrong(
                f"{place}.tool_use_id",
                "must be the id of a call in the assistant's turn before it, and of no "
                "other result",
            )
        content = _result_parts(block)
        text = "".join(part["text"] for part in content if part["type"] == "text")
        error = "Error: " if block.is_error else ""
        conversation.add(place, "tool", error + text, tool_call_id=block.tool_use_id)
        found = [part for part in content if part["type"] == "image"]
        parts += found
        images += len(found)
    _check_answered(waiting)
    if parts or not calls:
        is_text = all(part["type"] == "text" for part in parts)
        text = "".join(part["text"] for part in parts) if is_text else ""
        conversation.add(turn.place, "user", text if is_text else parts)


def _result_parts(block: ToolResultBlock) -> list[dict[str, Any]]:
    if isinstance(block.content, str):
        return [{"type": "text", "text": block.content}]
    return _parts(block.content or ())


def _parts(blocks: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {"type": "image"}
        if isinstance(block, ImageBlock)
        else {"type": "text", "text": block.text}
        for block in blocks
    ]


def _check_answered(calls: dict[str, str]) -> None:
    for place in calls.values():
        raise _wrong(place, "has no tool_result in the user's turn after it")


def _wrong(path: str, requirement: str) -> RequestRejected:
    return RequestRejected(f"`{path}` {requirement}.", path, code="invalid_value")


def placed_images(messages: Sequence[Turn]) -> Iterable[tuple[str, ImageBlock]]:
    """Yields the images of a conversation with their places, in the prompt's order."""
    for number, message in enumerate(messages):
        if not isinstance(message, UserTurn):
            continue
        for place, block in _placed_blocks(message, f"messages[{number}]"):
            if isinstance(block, ImageBlock):
                yield place, block
            if isinstance(block, ToolResultBlock) and not isinstance(
                block.content, str
            ):
                for index, inner in enumerate(block.content or ()):
                    if isinstance(inner, ImageBlock):
                        yield f"{place}.content[{index}]", inner
