"""Calls of tools and their results in prompts, also beside images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import mllama
from tests.reference.prompts import prompt_encoder

PACKAGE = Path(mllama.__file__).parent
DEMO = PACKAGE / "demo_model" / "checkpoint"
META = (PACKAGE / "weights" / "ollama" / "meta_format.jinja").read_text()
"""Takes one call a message, leaves out a text beside it, and describes tools in the
first turn, as Meta's own template."""

IMAGE = {"type": "image"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
USER = {"role": "user", "content": "Look!"}


def call(name: str, arguments: Any, identity: str | None = None) -> dict[str, Any]:
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if identity is None else {"id": identity, **made}


def calling(*calls: Any, text: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": text, "tool_calls": list(calls)}


def result(content: str, identity: str | None = None) -> dict[str, Any]:
    made = {"role": "tool", "content": content}
    return made if identity is None else {**made, "tool_call_id": identity}


def rendered(messages: list[Any], template: str = META, **options: Any) -> str:
    tokenizer: Any = AutoTokenizer.from_pretrained(DEMO)
    tokens = prompt_encoder(tokenizer, template).encode_chat(messages, **options)
    return str(tokenizer.decode(tokens))


def turns(prompt: str) -> list[tuple[str, str]]:
    """The roles and contents of a prompt's turns after the user's."""
    found = []
    for turn in prompt.split("<|start_header_id|>")[1:]:
        role, _, content = turn.partition("<|end_header_id|>\n\n")
        found.append((role, content.removesuffix("<|eot_id|>")))
    first = next(index for index, (role, _) in enumerate(found) if role == "user")
    return found[first + 1 :]


@pytest.mark.parametrize("arguments", [{"at": {"x": "{}"}}, '{"at": {"x": "{}"}}'])
def test_arguments_are_decoded_once(arguments: Any) -> None:
    messages = [USER, calling(call("look", arguments)), result("a cat")]
    assert turns(rendered(messages)) == [
        ("assistant", '{"name": "look", "parameters": {"at": {"x": "{}"}}}'),
        ("ipython", '"a cat"'),
        ("assistant", ""),
    ]


def test_several_calls_of_a_message_become_turns_with_their_results() -> None:
    """Results are matched by the calls' ids, whatever their order."""
    messages = [
        USER,
        calling(call("look", {}, "a"), call("go", {"to": 1}, "b"), text="Let me see."),
        result("home", "b"),
        result("a cat", "a"),
        {"role": "user", "content": "And now?"},
    ]
    assert turns(rendered(messages)) == [
        ("assistant", "Let me see."),
        ("assistant", '{"name": "look", "parameters": {}}'),
        ("ipython", '"a cat"'),
        ("assistant", '{"name": "go", "parameters": {"to": 1}}'),
        ("ipython", '"home"'),
        ("user", "And now?"),
        ("assistant", ""),
    ]


def test_results_without_ids_are_matched_by_name() -> None:
    messages = [
        *(USER, calling(call("look", {}, "a"), call("go", {}, "b"))),
        *({**result("home"), "name": "go"}, {**result("a cat"), "name": "look"}),
    ]
    contents = [content for role, content in turns(rendered(messages))]
    assert contents[1::2] == ['"a cat"', '"home"']


def test_calls_without_ids_have_results_in_order() -> None:
    messages = [
        *(USER, calling(call("look", {}), call("go", {}))),
        *(result("first"), result("second")),
    ]
    contents = [content for role, content in turns(rendered(messages))]
    assert contents[1::2] == ['"first"', '"second"']


def test_a_template_that_takes_several_calls_gets_them_in_one_message() -> None:
    template = (DEMO / "chat_template.jinja").read_text()
    messages = [
        USER,
        calling(call("look", {}, "a"), call("go", {}, "b")),
        result("1", "a"),
        result("2", "b"),
    ]
    roles = [role for role, _ in turns(rendered(messages, template))]
    assert roles == ["assistant", "ipython", "ipython", "assistant"]


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_tools_stand_beside_images(system: list[Any]) -> None:
    user = {"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}]}
    messages = [*system, user, calling(call("look", {}, "a")), result("a cat", "a")]
    prompt = rendered(messages, tools=[TOOL])
    assert prompt.count("<|image|>") == 1
    assert "<|image|>What?<|eot_id|>" in prompt
    assert '"name": "look"' in prompt.partition("<|image|>")[0]
    assert prompt.count("Be brief.") == len(system)
