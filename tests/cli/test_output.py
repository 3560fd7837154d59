"""Answers as text and as JSON, also those that call tools."""

from __future__ import annotations

import io
import json
from typing import Any

from mllama.cli.output import Answers
from mllama.engine.outputs import Choice, Chunk, Output
from mllama.requests.events import (
    ToolCallArguments,
    ToolCallEnded,
    ToolCallStarted,
    ToolCallWithdrawn,
)
from mllama.requests.tool_calls.collector import ToolCall

CALL = ToolCall("call_1", "look", '{"at": "it"}')
BEGUN = [ToolCallStarted(0, 0, "call_1", "look"), ToolCallArguments(0, 0, '{"at": ')]
ENDED = [ToolCallArguments(0, 0, '"it"}'), ToolCallEnded(0, 0)]


def output(*choices: Choice) -> Output:
    first = choices[0]
    return Output(
        first.text, [], first.finish_reason, 1, 0, 1, 0.0, None, choices=list(choices)
    )


def choice(text: str = "", *calls: ToolCall) -> Choice:
    return Choice(text, [], "tool_calls" if calls else "stop", tool_calls=list(calls))


def streamed(*chunks: tuple[str, Any], end: Output) -> str:
    stream = io.StringIO()
    answers = Answers(stream, "text", 0.0)
    for text, calls in chunks:
        answers.write_chunk(Chunk(text, [1], None, tool_calls=calls))
    answers.end(end)
    return stream.getvalue()


def test_a_call_has_a_line_of_its_own() -> None:
    whole = output(choice("", CALL))
    assert streamed(("", BEGUN), ("", ENDED), end=whole) == 'look({"at": "it"})\n'
    assert streamed(("", [*BEGUN, *ENDED]), (" Done.", []), end=whole) == (
        'look({"at": "it"})\n Done.\n'
    )


def test_what_turns_out_to_be_text_follows_as_text() -> None:
    shown = streamed(
        ("", BEGUN), ("{x", [ToolCallWithdrawn(0, 0)]), end=output(choice())
    )
    assert shown == 'look({"at": \n{x\n'


def test_a_call_that_a_limit_cuts_ends_its_line() -> None:
    assert streamed(("", BEGUN), end=output(choice("", CALL))) == 'look({"at": \n'


def test_several_answers_have_headings() -> None:
    stream = io.StringIO()
    answers = Answers(stream, "text", 0.0)
    answers.write_one_of_many(output(choice("", CALL, CALL), choice("Hi")))
    line = 'look({"at": "it"})\n'
    assert stream.getvalue() == f"==> 1.1 <==\n{line}{line}\n==> 1.2 <==\nHi\n"


def test_json_has_calls_in_the_form_of_messages() -> None:
    stream = io.StringIO()
    Answers(stream, "json", 0.0).end(output(choice("", CALL), choice("Hi")))
    report = json.loads(stream.getvalue())
    function = {"name": "look", "arguments": '{"at": "it"}'}
    expected = [{"id": "call_1", "type": "function", "function": function}]
    assert report["tool_calls"] == expected
    assert report["choices"][0]["tool_calls"] == expected
    assert "tool_calls" not in report["choices"][1]
