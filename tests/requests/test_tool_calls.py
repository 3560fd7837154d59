"""Calls of tools are told from text, however an answer is cut into pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama.requests.events import (
    ToolCallArguments,
    ToolCallEnded,
    ToolCallStarted,
    ToolCallWithdrawn,
)
from mllama.requests.tool_calls.collector import ToolCallCollector
from mllama.requests.tool_calls.json_scanner import MAX_DEPTH
from mllama.requests.tool_calls.parser import Part, ToolCallParser, ToolForm

NAMES = ("look", "go", "f-1")
CALL = '{"name": "look", "parameters": {"at": "a \\"ü\\""}}'
ARGUMENTS = '{"at": "a \\"ü\\""}'
DEEP = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH


def parts_of(
    answer: str,
    cuts: Any = (),
    *,
    form: ToolForm = "auto",
    is_cut: bool = False,
    is_single: bool = False,
) -> list[Part]:
    """What the parser returns for an answer that is cut at some places."""
    parser = ToolCallParser(NAMES, form, 3, is_single=is_single)
    places = [0, *sorted({cut % (len(answer) + 1) for cut in cuts}), len(answer)]
    parts: list[Part] = []
    for start, end in pairwise(places):
        parts += parser.push(answer[start:end])
    return parts + parser.finish(is_cut=is_cut)


def joined(parts: list[Part]) -> list[Any]:
    """Parts as plain data, with adjacent texts and adjacent arguments joined."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            each: Any = ["text", part]
        else:
            assert part.choice == 3
            each = [type(part).__name__, part.index]
            if isinstance(part, ToolCallStarted):
                each = ["started", part.index, part.name]
            elif isinstance(part, ToolCallArguments):
                each = ["arguments", part.text]
        if found and each[0] == found[-1][0] and each[0] in ("text", "arguments"):
            found[-1][1] += each[1]
        else:
            found.append(each)
    return found


def parsed(answer: str, **options: Any) -> tuple[str, list[tuple[str, str]]]:
    """The text and the calls of an answer."""
    collector, text = ToolCallCollector(), ""
    for part in parts_of(answer, **options):
        if isinstance(part, str):
            text += part
        else:
            collector.add(part)
    return text, [(call.name, call.arguments) for call in collector.calls]


@pytest.mark.parametrize("before", ["", " \n", "<|python_tag|>", " <|python_tag|> "])
def test_a_call_is_not_text(before: str) -> None:
    text, ((name, arguments),) = parsed(before + CALL)
    assert (text, name) == ("", "look")
    assert json.loads(arguments) == {"at": 'a "ü"'}


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        (CALL, ARGUMENTS),
        # The model's own text, with its spaces.
        ('{"name": "look", "parameters": { "a" :[ ] } }', '{ "a" :[ ] }'),
        ('{"name":"look","arguments":{}}', "{}"),
        ('{"parameters": {"a": 1}, "name": "look"}', '{"a": 1}'),
        ('{"type": "function", "name": "look", "parameters": {}}', "{}"),
        ('{"name": "look", "parameters": {}, "id": [1, {"x": "}"}]}', "{}"),
        ('{"name": "look", "parameters": null}', "{}"),
        # Decoded once: what is in it stays text.
        ('{"name": "look", "parameters": "{\\"a\\": \\"{}\\"}"}', '{"a": "{}"}'),
        ('{"name": "look", "parameters": {"a": "{\\"b\\"}"}}', '{"a": "{\\"b\\"}"}'),
        ('{"name": "look", "parameters": {"a": "\\ud800"}}', '{"a": "\\ud800"}'),
        ('{"name": "go", "arguments": "{\\"a\\":\\"\\ud800\\"}"}', '{"a":"\\ud800"}'),
        ('{"name": "look", "parameters": ' + DEEP + "}", DEEP),
        ("[look()]", "{}"),
        ("[look(a=1, b='x', c=[True, None, {'d': -2.5}])]",
         '{"a": 1, "b": "x", "c": [true, null, {"d": -2.5}]}'),
        ("[ look ( a = 1 , ) , ]", '{"a": 1}'),
        ("[look(a=true, b=null, c=(1, 2))]", '{"a": true, "b": null, "c": [1, 2]}'),
        ("[look(a=\"it's\", b='\"')]", '{"a": "it\'s", "b": "\\""}'),
        (r"[look(a='\x41\u00fc\101\n\d\\\N{BULLET}')]", r'{"a": "AüA\n\\d\\•"}'),
        (r"[look(a='\ud83d\ude00')]", r'{"a": "\ud83d\ude00"}'),
        ('[look(a="""x "y"\nz""", b="", c="""""")]',
         r'{"a": "x \"y\"\nz", "b": "", "c": ""}'),
        ("[look(a=['it' 's', \"\"])]", '{"a": ["its", ""]}'),
        ("[look(a='{\"b\": 1}')]", '{"a": "{\\"b\\": 1}"}'),
        ("[look(ü=1)]", '{"\\u00fc": 1}'),
    ],
)  # fmt: skip
def test_arguments_are_a_json_object_as_text(answer: str, arguments: str) -> None:
    text, ((_, found),) = parsed(answer)
    assert (text, found) == ("", arguments)
    arguments.encode()
    json.loads(arguments)


@pytest.mark.parametrize("between", ["; ", ";", "\n", ", ", "", " <|python_tag|>"])
def test_several_calls_may_follow_each_other(between: str) -> None:
    answer = f" {CALL}{between}" + '{"name": "go", "arguments": {}}\n'
    assert parsed(answer) == ("", [("look", ARGUMENTS), ("go", "{}")])


@pytest.mark.parametrize(
    "answer",
    [
        f"[{CALL}]",
        f"[ {CALL} ]\n",
        f"[{CALL}",
        '[look(at="a \\"ü\\"")]',
        '[look(at="a \\"ü\\""), ]',
    ],
)
def test_calls_may_be_in_a_list(answer: str) -> None:
    assert parsed(answer) == ("", [("look", ARGUMENTS)])
    if answer.endswith("]"):
        more = f"{answer[:-1].rstrip(', ')}, {answer[1:]}"
        assert parsed(more) == ("", [("look", ARGUMENTS)] * 2)


TEXTS = [
    "Hello.",
    "",
    " \n",
    "{",
    '{"name": "look"}',
    '{"name": "look", "parameters": "x"}',
    '{"name": "look", "parameters": "{} {}"}',
    '{"name": "look", "parameters": "[]"}',
    '{"name": "look", "parameters": 3}',
    '{"name": ["look"], "parameters": {}}',
    '{"name": "other", "parameters": {}}',
    '{"name": "look", "name": "look", "parameters": {}}',
    '{"name": "look", "parameters": {}, "arguments": {}}',
    '{"name": "look", "parameters": {"a": 01}}',
    '{"name": "look", "parameters": {"a": "\n"}}',
    '{"name": "look", "parameters": {"a": "\\x"}}',
    '{"name": "look", "parameters": {"a" 1}}',
    '{"name": "look", "parameters": {"a": 1,}}',
    '{"name": "look", "parameters": ' + '{"a":' + DEEP + "}}",
    '{"answer": 42}',
    '{"name": "Ada", "age": 36}',
    CALL[:-1],
    "Sure: " + CALL,
    "<|python" + CALL,
    "{" * 5000,
    '{"a":' * 5000,
    "[]",
    "[1, 2]",
    "[Note] this",
    "[look]",
    "[look(1)]",
    "[look(a=1",
    "[look(**{})]",
    "[look(a=b)]",
    "[look(a=f'{b}')]",
    "[look(a=b'x')]",
    "[look(a=__import__('os'))]",
    "[look(a=[].append(1))]",
    "[look(a=1, a=2)]",
    "[look(a=1e999)]",
    "[look(a=1j)]",
    "[look(a={1})]",
    "[look(a={1: 2})]",
    "[look(a='x\ny')]",
    "[look(a='\\xzz')]",
    "[look(a='x' 'y')]",
    "[look(a=[1)]",
    "[look(a=--1)]",
    f"[look(a={'[' * 200}{']' * 200})]",
    f"[look(a={'9' * 5000})]",
    "[other(a=1)]",
    "look(a=1)",
    '["look"]',
    '[{"answer": 42}]',
]


@pytest.mark.parametrize("answer", TEXTS)
def test_all_else_is_text_as_it_is(answer: str) -> None:
    assert parsed(answer) == (answer, [])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (CALL + " That is it.", " That is it."),
        (f"[{CALL}] Done.", " Done."),
        (CALL + '; {"name": "other", "parameters": {}}',
         '; {"name": "other", "parameters": {}}'),
        (CALL + "; " + CALL[:-1], "; " + CALL[:-1]),
        ('[look(at="a \\"ü\\""), other()]', ", other()]"),
        ('[look(at="a \\"ü\\"")] [go()]', " [go()]"),
        (CALL + " <|python", " <|python"),
    ],
)  # fmt: skip
def test_text_after_calls_stays_text(answer: str, text: str) -> None:
    assert parsed(answer) == (text, [("look", ARGUMENTS)])


def test_without_tools_all_is_text_at_once() -> None:
    parser = ToolCallParser()
    assert parser.push(CALL) == [CALL]
    assert parser.finish() == []


@pytest.mark.parametrize(
    "text",
    ['{"answer":', "{{", '{"name": "other",', "[1", "[No ]", "[look] ", "T", "<b"],
)
def test_text_is_passed_on_as_soon_as_it_is_no_call(text: str) -> None:
    parser = ToolCallParser(["look"])
    passed = "".join(str(part) for each in " " + text for part in parser.push(each))
    assert passed == " " + text
    assert parser.push("{") == ["{"]


def test_a_form_can_be_excluded() -> None:
    pythonic = '[look(at="a \\"ü\\"")]'
    assert parsed(CALL, form="pythonic") == (CALL, [])
    assert parsed(f"[{CALL}]", form="pythonic") == (f"[{CALL}]", [])
    assert parsed(pythonic, form="llama3_json") == (pythonic, [])
    assert parsed(pythonic, form="pythonic")[1] == [("look", ARGUMENTS)]
    assert parsed(CALL, form="llama3_json")[1] == [("look", ARGUMENTS)]


def test_each_call_has_an_id_of_its_own() -> None:
    parts = parts_of(f"{CALL}; {CALL}")
    ids = {part.id for part in parts if isinstance(part, ToolCallStarted)}
    assert len(ids) == 2


def test_the_first_call_ends_an_answer_that_may_have_only_one() -> None:
    for answer in (f"{CALL}; {CALL}", f"[{CALL}, {CALL}]", f"{CALL} Done."):
        assert parsed(answer, is_single=True) == ("", [("look", ARGUMENTS)])
    parser = ToolCallParser(NAMES, is_single=True)
    parser.push(CALL[:-1])
    assert not parser.is_finished
    parser.push("}")
    assert parser.is_finished


def test_the_name_comes_first_and_arguments_while_they_are_generated() -> None:
    parser = ToolCallParser(NAMES)
    seen = [parser.push(piece) for piece in ('{"name": "look", "parameters": ', "{",
                                             '"at": "a', ' b"', "}", "}")]  # fmt: skip
    assert [
        [part.text for part in parts if isinstance(part, ToolCallArguments)]
        for parts in seen
    ] == [[], [], ['{"at": "a'], [' b"'], ["}"], []]
    assert isinstance(seen[2][0], ToolCallStarted)
    assert isinstance(seen[5][0], ToolCallEnded)


def test_pythonic_strings_come_while_they_are_generated() -> None:
    parser = ToolCallParser(NAMES)
    pieces = ("[look(", "at='", "a", "\\", "n b", "', n=[1", ", 2", "]", ")")
    seen = [parser.push(piece) for piece in pieces]
    assert [
        "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
        for parts in seen
    ] == ["", '{"at": ', '"a', "", "\\n b", '", "n": ', "", "", "[1, 2]}"]


def test_a_call_that_a_limit_cuts_stays_one() -> None:
    answer = '{"name": "look", "parameters": {"at": "a'
    assert parsed(answer, is_cut=True) == ("", [("look", '{"at": "a')])
    assert parsed(answer) == (answer, [])
    before = '{"name": "look", "parame'
    assert parsed(before, is_cut=True) == (before, [])


def test_what_turns_out_to_be_no_call_is_withdrawn() -> None:
    answer = '{"name": "look", "parameters": {"at": oops}} and more'
    parser = ToolCallParser(NAMES)
    first = parser.push(answer[:38])
    assert isinstance(first[0], ToolCallStarted)
    second = parser.push(answer[38:])
    assert isinstance(second[0], ToolCallWithdrawn)
    assert second[1] == answer


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *(CALL, CALL[:-1], CALL[:-8], '{"name": "', "look", '", "parameters": '),
            *("{", "}", "[", "]", "(", ")", ",", ";", ":", " ", "\n", "=", '"', "'"),
            *("look(", "go()", "a=", "1", "-1.5e3", "true", "None", "\\", "\\u00fc"),
            *('"""', "x", "é", "<|python_tag|>", "<", "\\ud83d", "\\N{BULLET}", "0"),
            *('{"a": [1, "b"]}', '"x y"', "{'k': 'v'}", "Done.", "\t", "[look(a="),
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=600, deadline=None)
@given(
    answer=FRAGMENTS | st.sampled_from(TEXTS),
    cuts=st.lists(st.integers(0, 10_000), max_size=20),
    is_cut=st.booleans(),
    is_single=st.booleans(),
)
def test_any_split_gives_the_same_events(
    answer: str, cuts: list[int], is_cut: bool, is_single: bool
) -> None:
    options: Any = {"is_cut": is_cut, "is_single": is_single}
    whole = joined(parts_of(answer, **options))
    assert joined(parts_of(answer, cuts, **options)) == whole
    assert joined(parts_of(answer, range(len(answer)), **options)) == whole
    for part in whole:
        if part[0] == "arguments":
            part[1].encode()


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    arguments=st.dictionaries(st.text(), JSON_VALUES, max_size=4),
    escapes=st.booleans(),
    cuts=st.lists(st.integers(0, 10_000), max_size=10),
)
def test_any_arguments_are_read_as_they_are(
    arguments: dict[str, Any], escapes: bool, cuts: list[int]
) -> None:
    text = json.dumps(arguments, ensure_ascii=escapes)
    answer = f'{{"name": "look", "parameters": {text}}}'
    assert parsed(answer, cuts=cuts) == ("", [("look", text)])


@settings(max_examples=200, deadline=None)
@given(
    arguments=st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), JSON_VALUES, max_size=4
    ),
    cuts=st.lists(st.integers(0, 10_000), max_size=10),
)
def test_any_pythonic_arguments_become_json(
    arguments: dict[str, Any], cuts: list[int]
) -> None:
    keywords = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    text, ((name, found),) = parsed(f"[look({keywords})]", cuts=cuts)
    assert (text, name) == ("", "look")
    assert json.loads(found) == arguments


META_CALLS = [
    # What Meta's prompt formats of Llama 3.1 and 3.2 show as answers.
    ('{"name": "get_weather", "parameters": {"city": "San Francisco"}}',
     [("get_weather", {"city": "San Francisco"})]),
    ('<|python_tag|>{"name": "get_weather", "parameters": {"city": "Seattle"}}',
     [("get_weather", {"city": "Seattle"})]),
    ("[get_weather(city='San Francisco', metric='celsius'), "
     "get_weather(city='Seattle', metric='celsius')]",
     [("get_weather", {"city": "San Francisco", "metric": "celsius"}),
      ("get_weather", {"city": "Seattle", "metric": "celsius"})]),
    ("[get_user_info(user_id=7890, special='black')]",
     [("get_user_info", {"user_id": 7890, "special": "black"})]),
    ('<|python_tag|>[get_weather(city="San Francisco", metric="celsius")]',
     [("get_weather", {"city": "San Francisco", "metric": "celsius"})]),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "calls"), META_CALLS)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_calls_in_the_forms_of_metas_prompt_formats_are_read(
    answer: str, calls: list[tuple[str, dict[str, Any]]], step: int
) -> None:
    parser = ToolCallParser(("get_weather", "get_user_info"))
    parts: list[Part] = []
    for start in range(0, len(answer), step):
        parts += parser.push(answer[start : start + step])
    parts += parser.finish()
    collector = ToolCallCollector()
    for part in parts:
        assert not isinstance(part, str)
        collector.add(part)
    found = [(call.name, json.loads(call.arguments)) for call in collector.calls]
    assert found == calls
    assert parser.finish_reason("stop") == "tool_calls"


@pytest.mark.parametrize("arguments", ["{'at': 1}", "{...}", "{ at: 1}", "{<at>}"])
def test_arguments_that_do_not_begin_as_json_are_text_from_the_start(
    arguments: str,
) -> None:
    answer = f'{{"name": "look", "parameters": {arguments}}}'
    parts = parts_of(answer, range(len(answer)))
    assert joined(parts) == [["text", answer]]
