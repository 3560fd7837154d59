"""Calls of tools in Python: forced ones, their results, and streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from mllama import LLM
from mllama.errors import MllamaError
from mllama.requests.tool_calls.collector import ToolCallCollector

pytestmark = pytest.mark.compiles

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "count_shapes",
        "parameters": {
            "type": "object",
            "properties": {"color": {"enum": ["red", "blue"]}},
            "required": ["color"],
        },
        "strict": True,
    },
}
FORCED: Any = {
    "tools": [TOOL],
    "tool_choice": "count_shapes",
    "parallel_tool_calls": False,
    "max_new_tokens": 60,
}


def question(picture: Image.Image) -> list[Any]:
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "How many?"}]
    return [{"role": "user", "content": parts}]


def test_a_forced_call_and_its_result(llm: LLM, pictures: list[Image.Image]) -> None:
    messages = question(pictures[0])
    output = llm.chat(messages, **FORCED)
    (call,) = output.tool_calls
    assert (output.text, output.finish_reason) == ("", "tool_calls")
    assert json.loads(call.arguments)["color"] in ("red", "blue")
    messages.append(output.message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "1"})
    answer = llm.chat(messages, tools=[TOOL], tool_choice="none", max_new_tokens=4)
    assert not answer.tool_calls
    prompt = llm._engine._tokenizer.delegate.decode(answer.prompt_token_ids)
    assert f'"parameters": {call.arguments}}}' in prompt


def test_a_stream_has_the_calls_of_the_whole_answer(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    whole = llm.chat(question(pictures[0]), n=2, seed=1, temperature=1.0, **FORCED)
    stream = llm.chat(
        question(pictures[0]), n=2, seed=1, temperature=1.0, stream=True, **FORCED
    )
    collectors = [ToolCallCollector(), ToolCallCollector()]
    with stream:
        for chunk in stream:
            for event in chunk.tool_calls:
                assert event.choice == chunk.choice
                collectors[chunk.choice].add(event)
    for collector, choice in zip(collectors, whole.choices, strict=True):
        (call,), (expected,) = collector.calls, choice.tool_calls
        assert (call.name, call.arguments) == (expected.name, expected.arguments)


def test_many_conversations_with_and_without_calls(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    outputs = llm.chat([question(picture) for picture in pictures], **FORCED)
    assert all(len(output.tool_calls) == 1 for output in outputs)
    plain = llm.chat(question(pictures[0]), max_new_tokens=8)
    assert plain.tool_calls == []
    assert plain.message == {"role": "assistant", "content": plain.text}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tool_choice": "required"}, "the request has no tools"),
        ({"tools": [TOOL], "tool_choice": "nope"}, "the name of one of the tools"),
        ({**FORCED, "stop": "x"}, "stop can't be combined with tool_choice"),
        ({"tools": [TOOL, TOOL]}, "is that of another tool"),
    ],
)
def test_what_can_not_be_honored_is_refused(
    llm: LLM, settings: Any, complaint: str
) -> None:
    with pytest.raises(MllamaError, match=complaint):
        llm.chat([{"role": "user", "content": "Hi"}], **settings)
