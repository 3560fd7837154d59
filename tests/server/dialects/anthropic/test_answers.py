"""Whole answers, and streams that add up to them."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from mllama.errors import EngineError, EngineOverloadedError, RequestError
from mllama.server.dialects.anthropic import message_answer
from tests.server.dialects.fake_engine import FakeEngine

from .conftest import CALL, RESULT, TOOL, USER, Api, error_of, events_of, gathered

LARGEST = sys.float_info.max
LOOK = '{"name": "look", "parameters": {"at": "it"}}'
AT_IT = {"type": "tool_use", "name": "look", "input": {"at": "it"}}


def without_ids(message: Any) -> Any:
    """A message without what differs from answer to answer; input is parsed."""
    content = [dict(block) for block in message["content"]]
    for block in content:
        if block["type"] == "tool_use":
            assert block.pop("id").startswith("toolu_")
            if isinstance(block["input"], str):
                block["input"] = json.loads(block["input"])
    assert message["id"].startswith("msg_")
    return {**message, "id": None, "content": content}


def test_an_answer_is_a_message(api: Api) -> None:
    answer = api.message()
    assert answer["content"] == [{"type": "text", "text": "Hello!"}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert answer["model"] == "served"
    assert answer["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 7,
    }
    assert api.send().headers["request-id"] == "id"


def test_tokens_of_the_cache_are_counted_apart(api: Api) -> None:
    api.engine.cached_tokens = 2
    for usage in (api.message()["usage"], gathered(api.events())["usage"]):
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (1, 2)
    start = api.events()[0]["message"]["usage"]
    assert (start["input_tokens"], start["cache_read_input_tokens"]) == (1, 2)


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("Hello!", {}, "end_turn"),
        ("Hello!", {"max_tokens": 2}, "max_tokens"),
        ("Hello!", {"max_tokens": 0}, "max_tokens"),
        ("Hello!", {"stop_sequences": ["never", "l"]}, "stop_sequence"),
        ("Hello!", {"stop_sequences": ["", "H"]}, "stop_sequence"),
        ("", {}, "end_turn"),
        (LOOK, {"tools": [TOOL]}, "tool_use"),
        (f"{LOOK}; {LOOK} Done.", {"tools": [TOOL]}, "tool_use"),
        ("[look(at='it'), look()]", {"tools": [TOOL]}, "tool_use"),
        (
            f"{LOOK}; {LOOK}",
            {
                "tools": [TOOL],
                "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            },
            "tool_use",
        ),
        (LOOK, {"tools": [TOOL], "max_tokens": 40}, "max_tokens"),
        (LOOK, {"tools": [TOOL], "stop_sequences": ["it"]}, "stop_sequence"),
        (LOOK.replace('"it"', "oops"), {"tools": [TOOL]}, "end_turn"),
        (LOOK, {"tools": [TOOL], "tool_choice": {"type": "none"}}, "end_turn"),
        (LOOK, {}, "end_turn"),
    ],
)  # fmt: skip
def test_a_stream_adds_up_to_the_whole_answer(
    text: str, options: Any, reason: str
) -> None:
    whole = Api(FakeEngine(text)).message(**options)
    assert whole["stop_reason"] == reason
    streamed = gathered(Api(FakeEngine(text)).events(**options))
    if reason == "max_tokens" and options.get("tools"):
        # What the SDK makes of incomplete JSON.
        assert streamed["content"][0]["input"] == '{"at": "i'
        streamed["content"][0]["input"] = {}
    assert without_ids(streamed) == without_ids(whole)


def test_a_stop_sequence_is_named_and_not_in_the_text(api: Api) -> None:
    answer = api.message(stop_sequences=["never", "lo"])
    assert answer["content"] == [{"type": "text", "text": "Hel"}]
    assert answer["stop_sequence"] == "lo"


def test_an_answer_without_text_has_no_block() -> None:
    api = Api(FakeEngine(""))
    assert api.message()["content"] == []
    kinds = [event["type"] for event in api.events()]
    assert kinds == ["message_start", "message_delta", "message_stop"]


def test_an_answer_that_the_context_cuts_says_so(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = api.engine._events

    def full(request: Any) -> Any:
        object.__setattr__(request.sampling, "max_new_tokens", 3)
        return cut(request)

    monkeypatch.setattr(api.engine, "_events", full)
    assert api.message(max_tokens=4)["stop_reason"] == "model_context_window_exceeded"
    assert api.message(max_tokens=3)["stop_reason"] == "max_tokens"


def test_text_is_streamed_as_it_is_generated(api: Api) -> None:
    events = api.events()
    kinds = [event["type"] for event in events]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 6,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [event["delta"]["text"] for event in events[2:8]] == list("Hello!")


def input_deltas(events: list[Any]) -> int:
    return sum(
        event["type"] == "content_block_delta"
        and event["delta"]["type"] == "input_json_delta"
        for event in events
    )


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [{**TOOL, "eager_input_streaming": True}]},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "look"}},
        {"tools": [{**TOOL, "strict": True}]},
    ],
)
def test_input_that_is_certain_or_eager_is_streamed_as_it_is_generated(
    options: Any,
) -> None:
    api = Api(FakeEngine(LOOK))
    events = api.events(**options)
    # The brace waits for what follows it.
    assert input_deltas(events) == len('{"at": "it"}') - 1
    (block,) = without_ids(gathered(events))["content"]
    assert block == AT_IT


def test_other_input_is_streamed_when_the_call_is_complete() -> None:
    reached: list[int] = []
    api = Api(FakeEngine(f"{LOOK} Done"))

    async def note() -> None:
        reached.append(0)

    api.engine.wait = note
    events = api.events(tools=[TOOL])
    kinds = [event["type"] for event in events]
    assert kinds[1:4] == [
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
    ]
    assert without_ids(gathered(events))["content"] == [
        AT_IT,
        {"type": "text", "text": " Done"},
    ]


def test_an_eager_call_that_turns_out_to_be_text_is_followed_by_it() -> None:
    text = LOOK.replace('"it"', "oops")
    api = Api(FakeEngine(text))
    message = gathered(api.events(tools=[{**TOOL, "eager_input_streaming": True}]))
    call, block = message["content"]
    assert call["input"] == '{"at": '
    assert block == {"type": "text", "text": text}
    assert message["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{}", {}),
        ('{"a": 1e999, "b": -1e999}', {"a": LARGEST, "b": -LARGEST}),
        ('{"a": "\\ud800x"}', {"a": "?x"}),
        ('{"a": [1, {"b": "\\u00e9"}]}', {"a": [1, {"b": "é"}]}),
    ],
)
def test_input_is_json_whatever_the_model_writes(arguments: str, expected: Any) -> None:
    api = Api(FakeEngine(f'{{"name": "look", "parameters": {arguments}}}'))
    (block,) = api.message(tools=[TOOL], max_tokens=1000)["content"]
    assert block["input"] == expected


def test_an_incomplete_input_has_what_is_complete_of_it() -> None:
    text = '{"name": "look", "parameters": {"a": 1, "b": [2, 3], "c": "lon'
    api = Api(FakeEngine(text))
    answer = api.message(tools=[TOOL], max_tokens=len(text))
    assert answer["stop_reason"] == "max_tokens"
    assert answer["content"][0]["input"] == {"a": 1, "b": [2, 3]}


def test_an_answer_comes_back_accepted_as_the_next_turn() -> None:
    api = Api(FakeEngine(LOOK))
    answer = api.message(tools=[TOOL])
    (block,) = answer["content"]
    turns = [
        USER,
        {"role": "assistant", "content": answer["content"]},
        {
            "role": "user",
            "content": [{**RESULT, "tool_use_id": block["id"]}],
        },
    ]
    prompt = api.prompt(messages=turns, tools=[TOOL])
    call = prompt.messages[1]["tool_calls"][0]
    assert call["function"] == {"name": "look", "arguments": {"at": "it"}}
    assert prompt.messages[2] == {
        "role": "tool",
        "content": "a wall",
        "tool_call_id": block["id"],
    }
    assert CALL["id"] != block["id"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("too long", "messages"), 400, "invalid_request_error"),
        (EngineOverloadedError("full"), 429, "rate_limit_error"),
        (EngineError("dead"), 500, "api_error"),
        (KeyError("unforeseen"), 500, "api_error"),
    ],
)
def test_an_error_before_the_answer_is_a_status(
    api: Api, stream: bool, error: Exception, status: int, kind: str
) -> None:
    api.engine.error = error
    response = api.send(stream=stream)
    found = error_of(response, status)
    assert found["type"] == kind
    assert "unforeseen" not in found["message"]
    assert ("retry-after" in response.headers) == (status == 429)
    assert api.engine.running == 0


@pytest.mark.parametrize("after", [0, 3])
def test_an_error_within_a_stream_is_its_last_event(api: Api, after: int) -> None:
    api.engine.error_after = (after, EngineError("dead"))
    *events, last = api.events()
    assert last["error"] == {"type": "api_error", "message": "dead (request id)"}
    kinds = {event["type"] for event in events}
    assert kinds == (
        set() if not after
        else {"message_start", "content_block_start", "content_block_delta"}
    )  # fmt: skip
    assert error_of(api.send(), 500)["message"] == "dead (request id)"


def test_a_stream_is_never_silent_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither while the prompt is read, nor while a call is held back."""
    monkeypatch.setattr(message_answer, "PING_SECONDS", 0.02)
    api = Api(FakeEngine(LOOK))
    slow = {0, 25, 26}
    count = 0

    async def wait() -> None:
        nonlocal count
        await asyncio.sleep(0.05 if count in slow else 0)
        count += 1

    api.engine.wait = wait
    events = api.events(tools=[TOOL])
    kinds = [event["type"] for event in events]
    start = kinds.index("message_start")
    assert set(kinds[:start]) == {"ping"}
    assert kinds[start + 1] == "ping"
    assert without_ids(gathered(events))["content"] == [AT_IT]


@pytest.mark.parametrize("is_read", [False, True])
def test_a_client_that_goes_away_frees_the_engine(api: Api, is_read: bool) -> None:
    sent: list[bytes] = []

    async def run() -> None:
        reached = asyncio.Event()
        waits = 0

        async def wait_forever() -> None:
            nonlocal waits
            waits += 1
            if is_read and waits == 1:
                return
            if not is_read:
                reached.set()
            await asyncio.Event().wait()

        api.engine.wait = wait_forever
        body = {"max_tokens": 5, "messages": [USER], "stream": True}
        incoming = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive() -> Any:
            if incoming:
                return incoming.pop()
            await reached.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sent[-1]:
                # The engine is ahead of what the client has got.
                reached.set()

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/messages",
            "headers": [],
            "query_string": b"",
        }
        await asyncio.wait_for(api.app()(scope, receive, send), 10)

    asyncio.run(run())
    assert api.engine.running == 0
    kinds = [event["type"] for event in events_of(b"".join(sent).decode())]
    assert kinds == (["message_start"] if is_read else [])
