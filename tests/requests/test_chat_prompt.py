"""What shapes a prompt is checked when it is given."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.errors import RequestError
from mllama.requests.chat_prompt import ChatPrompt, ChatPromptOptions

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Oh"}
TOOL = {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": TOOL}, "tools"),
        ({"tools": "look"}, "tools"),
        ({"tools": [TOOL, "look"]}, "tools[1]"),
        ({"tools": [{"name": "look"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"add_generation_prompt": 1}, "add_generation_prompt"),
        ({"continue_final_message": "yes"}, "continue_final_message"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
    ],
)
def test_wrong_options_are_named(options: Any, param: str) -> None:
    with pytest.raises(RequestError, match=r"^[a-z_]+") as caught:
        ChatPromptOptions(**options)
    assert caught.value.param == param


def test_null_and_nothing_are_the_same() -> None:
    given = ChatPromptOptions(
        tools=None, chat_template_kwargs=None, add_generation_prompt=None
    )
    assert given == ChatPromptOptions()


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({}, True),
        ({"add_generation_prompt": True}, True),
        ({"add_generation_prompt": False}, False),
        ({"continue_final_message": True}, False),
        ({"continue_final_message": True, "add_generation_prompt": False}, False),
    ],
)
def test_a_prompt_ends_in_a_header_unless_something_says_otherwise(
    options: Any, begins: bool
) -> None:
    assert ChatPromptOptions(**options).begins_turn is begins


def test_only_an_answer_can_be_continued() -> None:
    with pytest.raises(RequestError, match="role assistant") as caught:
        ChatPrompt(messages=[ASSISTANT, USER], continue_final_message=True)
    assert caught.value.param == "continue_final_message"
    with pytest.raises(RequestError, match="at least one message"):
        ChatPrompt(messages=[])


def test_it_must_be_clear_where_the_answer_begins() -> None:
    chat = [USER, ASSISTANT]
    with pytest.raises(RequestError, match="the last message") as caught:
        ChatPrompt(messages=chat).check_turn(True)
    assert caught.value.param == "messages[1]"
    ChatPrompt(messages=chat).check_turn(False)
    ChatPrompt(messages=[USER]).check_turn(True)
    for options in ("continue_final_message", "add_generation_prompt"):
        ChatPrompt(messages=chat, **{options: True}).check_turn(True)  # type: ignore[arg-type]
    ChatPrompt(messages=chat, add_generation_prompt=False).check_turn(True)
