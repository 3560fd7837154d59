"""Files without a chat template get Meta's documented prompt format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mllama.max_model.chat_template import ChatTemplateError
from mllama.weights import ollama
from tests.reference.cases import cases
from tests.reference.checkpoints import checkpoint
from tests.reference.prompts import prompt_text

TEMPLATE = Path(ollama.__file__).with_name("meta_format.jinja").read_text()
DATE = "26 Jul 2024"

SYSTEM_BLOCK = (
    "<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
)
USER = "<|start_header_id|>user<|end_header_id|>\n\n"
ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
TOOLS_TEXT = (
    'Respond in the format {"name": function name, "parameters": dictionary of '
    "argument name and its value}.Do not use variables.\n\n{\n"
    '    "type": "function",\n    "function": {\n        "name": "weather",\n'
    '        "parameters": {}\n    }\n}\n\n'
)
IN_USER_TURN = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n" + TOOLS_TEXT
)
IN_SYSTEM_TURN = (
    "You have access to the following functions. To call a function, please respond "
    "with JSON for a function call." + TOOLS_TEXT
)

IMAGE = {"type": "image"}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def turn(role: str, *parts: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"role": role, "content": list(parts), **more}


def call(*arguments: Any) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": "weather", "arguments": one}}
        for one in arguments
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(checkpoint())


def render(tokenizer: Any, template: str, messages: Any, **options: Any) -> str:
    return prompt_text(
        tokenizer, template, messages, **{"date_string": DATE, **options}
    )


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([turn("user", IMAGE, text("What?"))], USER + "<|image|>What?<|eot_id|>"),
        (
            [turn("user", text("Hi"))],
            SYSTEM_BLOCK + "<|eot_id|>" + USER + "Hi<|eot_id|>",
        ),
        (
            [turn("system", text(" Be brief. ")), turn("user", text(" Hi "))],
            SYSTEM_BLOCK + "Be brief.<|eot_id|>" + USER + " Hi <|eot_id|>",
        ),
        (
            [turn("system", text(" ")), turn("user", IMAGE)],
            USER + "<|image|><|eot_id|>",
        ),
        (
            [turn("system", text(" ")), turn("user", text("Hi"))],
            SYSTEM_BLOCK + "<|eot_id|>" + USER + "Hi<|eot_id|>",
        ),
        (
            [turn("system", text("Be brief.")), turn("user", IMAGE)],
            SYSTEM_BLOCK + "Be brief.<|eot_id|>" + USER + "<|image|><|eot_id|>",
        ),
        (
            [
                turn("user", text("a"), IMAGE, text("b"), IMAGE),
                turn("assistant", text("c ")),
                turn("user", text("d")),
            ],
            f"{USER}a<|image|>b<|image|><|eot_id|>{ASSISTANT}c <|eot_id|>"
            f"{USER}d<|eot_id|>",
        ),
        (
            [
                {"role": "system", "content": "plain"},
                {"role": "user", "content": "text"},
            ],
            SYSTEM_BLOCK + "plain<|eot_id|>" + USER + "text<|eot_id|>",
        ),
    ],
)
def test_conversations(tokenizer: Any, messages: Any, expected: str) -> None:
    begun = "<|begin_of_text|>" + expected
    assert render(tokenizer, TEMPLATE, messages) == begun
    asked = render(tokenizer, TEMPLATE, messages, add_generation_prompt=True)
    assert asked == begun + ASSISTANT


def test_it_is_the_test_checkpoints_format(tokenizer: Any) -> None:
    """Whose template follows the structure of the published one, tools left out."""
    reference = (checkpoint() / "chat_template.jinja").read_text()
    for one in cases(64):
        messages = [
            {
                **message,
                "content": message["content"]
                if isinstance(message["content"], str)
                else [
                    IMAGE if part["type"] == "image" else part
                    for part in message["content"]
                ],
            }
            for message in one.messages
        ]
        found = render(tokenizer, TEMPLATE, messages)
        assert found == render(tokenizer, reference, messages), one.name


def test_the_date_is_todays(tokenizer: Any) -> None:
    from datetime import datetime

    days = {datetime.now().strftime("%d %b %Y")}
    found = prompt_text(tokenizer, TEMPLATE, [turn("user", text("Hi"))])
    days.add(datetime.now().strftime("%d %b %Y"))
    assert any(f"Today Date: {day}\n\n" in found for day in days)


@pytest.mark.parametrize(
    ("in_user_turn", "system", "user"),
    [(True, "", IN_USER_TURN), (False, IN_SYSTEM_TURN, "")],
)
def test_tools_are_described(
    tokenizer: Any, in_user_turn: bool, system: str, user: str
) -> None:
    found = render(
        tokenizer,
        TEMPLATE,
        [turn("user", IMAGE, text("Rain? "))],
        tools=TOOLS,
        tools_in_user_message=in_user_turn,
    )
    question = "<|image|>Rain?" if in_user_turn else "<|image|>Rain? "
    header = SYSTEM_BLOCK.replace("Cutting", "Environment: ipython\nCutting")
    assert found == (
        f"<|begin_of_text|>{header}{system}<|eot_id|>{USER}{user}{question}<|eot_id|>"
    )


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
@pytest.mark.parametrize("role", ["tool", "ipython"])
def test_tool_calls_and_results_are_rendered(
    tokenizer: Any, arguments: Any, role: str
) -> None:
    found = render(
        tokenizer,
        TEMPLATE,
        [
            turn("user", IMAGE),
            turn("assistant", tool_calls=call(arguments)),
            turn(role, text("12 °C")),
        ],
    )
    assert found.endswith(
        f'{ASSISTANT}{{"name": "weather", "parameters": {{"city": "Oslo"}}}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"12 °C"<|eot_id|>'
    )


def test_several_calls_are_messages_of_one_call_each(tokenizer: Any) -> None:
    """The template refuses a message with several."""
    found = render(
        tokenizer,
        TEMPLATE,
        [
            turn("user", text("a")),
            turn("assistant", tool_calls=call({"city": "Oslo"}, {"city": "Rome"})),
            turn("tool", text("12 °C")),
            turn("tool", text("20 °C")),
        ],
    )
    name = '{"name": "weather", "parameters": {"city": '
    result = "<|start_header_id|>ipython<|end_header_id|>\n\n"
    assert found.endswith(
        f'{USER}a<|eot_id|>{ASSISTANT}{name}"Oslo"}}}}<|eot_id|>'
        f'{result}"12 °C"<|eot_id|>{ASSISTANT}{name}"Rome"}}}}<|eot_id|>'
        f'{result}"20 °C"<|eot_id|>'
    )


@pytest.mark.parametrize(
    ("messages", "options", "complaint"),
    [
        ([turn("user", {"type": "video"})], {}, "message 1: a part .* not .*video"),
        (
            [turn("user", text("a")), turn("function", text("b"))],
            {},
            "no role function",
        ),
        ([turn("system", text("a"))], {"tools": TOOLS}, "first user message"),
    ],
)
def test_messages_outside_the_format_are_refused(
    tokenizer: Any, messages: Any, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ChatTemplateError, match=complaint):
        render(tokenizer, TEMPLATE, messages, **options)
