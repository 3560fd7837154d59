"""Streams of chats."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from mllama.errors import (
    EngineError,
    EngineOverloadedError,
    PromptTooLongError,
    RequestError,
)
from mllama.max_compat.server import ClientDisconnected
from mllama.server.dialects.openai.answers import ChatCompletionChunk
from tests.server.dialects.fake_engine import FakeEngine

from .conftest import USER, Api, chunks_of, error_of
from .test_chat import TOOL


def deltas(chunks: list[Any], index: int = 0) -> list[Any]:
    """The deltas of an answer."""
    return [
        choice["delta"]
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    ]


def test_every_chunk_has_the_schemas_form(api: Api) -> None:
    chunks = chunks_of(api.chat(stream=True))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" not in chunk
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    first, *rest = deltas(chunks)
    assert first == {"role": "assistant", "content": ""}
    assert not any("role" in delta for delta in rest)
    assert "".join(delta.get("content", "") for delta in rest) == "Hello!"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert all("finish_reason" in choice for choice in choices)
    assert all(choice["logprobs"] is None for choice in choices)
    *reasons, last = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * len(reasons)
    assert last == "stop"


def test_the_usage_comes_last_where_it_is_asked_for(api: Api) -> None:
    for options in ({"include_usage": False}, {}, None):
        chunks = chunks_of(api.chat(stream=True, stream_options=options))
        assert not any("usage" in chunk for chunk in chunks)
    whole = api.chat().json()["usage"]
    *chunks, last = chunks_of(
        api.chat(stream=True, stream_options={"include_usage": True})
    )
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == whole
    ChatCompletionChunk.model_validate(last, strict=True)


def test_the_usage_so_far_comes_with_every_chunk(api: Api) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chunks_of(api.chat(stream=True, stream_options=options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [0, 1, 2, 3, 4, 5, 6, 7, 7]


def test_several_choices_are_streamed_side_by_side() -> None:
    api = Api(FakeEngine("one", "three"))
    chunks = chunks_of(api.chat(stream=True, n=2))
    for index, text in enumerate(("one", "three")):
        first, *rest = deltas(chunks, index)
        assert first["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in rest) == text
        assert rest[-1] == {}


def test_log_probabilities_are_those_of_the_whole_answer() -> None:
    api = Api(FakeEngine("a😀"))
    options = {"logprobs": True, "top_logprobs": 2}
    whole = api.chat(**options).json()["choices"][0]["logprobs"]["content"]
    streamed = [
        entry
        for chunk in chunks_of(api.chat(stream=True, **options))
        for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == whole
    assert len(whole) == 5


def call_deltas(chunks: list[Any]) -> list[Any]:
    """What a stream's chunks add to calls."""
    return [call for delta in deltas(chunks) for call in delta.get("tool_calls", ())]


def test_a_call_of_a_tool_is_not_streamed_as_text() -> None:
    api = Api(FakeEngine(' {"name": "look", "parameters": {"at": "it"}}'))
    chunks = chunks_of(api.chat(stream=True, tools=[TOOL]))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    head, *rest = call_deltas(chunks)
    assert head["id"].startswith("call_")
    assert (head["index"], head["type"]) == (0, "function")
    assert head["function"] == {"name": "look", "arguments": ""}
    # The brace comes with what shows that JSON follows it.
    assert len(rest) == len('{"at": "it"}') - 1
    assert all(sorted(delta) == ["function", "index"] for delta in rest)
    arguments = "".join(delta["function"]["arguments"] for delta in rest)
    assert arguments == '{"at": "it"}'
    assert "".join(delta.get("content") or "" for delta in deltas(chunks)) == ""
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "look", "parameters": {"at": "é", "n": [1, 2]}}; '
        '{"name": "look", "parameters": { "at" : "\\u00e9" }}',
        '[{"name": "look", "parameters": {}}, {"name": "look", "arguments": {}}] Done.',
        "[look(at='it', n=1.5), look()]",
        '{"name": "look", "parameters": {"at": oops',
        "Text.",
    ],
)
@pytest.mark.parametrize("limit", [1000, 45, 28])
def test_a_stream_adds_up_to_the_whole_answer(answer: str, limit: int) -> None:
    """An answer that is no call after all has its text in both."""
    options: Any = {"tools": [TOOL], "max_tokens": limit}
    (whole,) = Api(FakeEngine(answer)).chat(**options).json()["choices"]
    chunks = chunks_of(Api(FakeEngine(answer)).chat(stream=True, **options))
    calls: list[Any] = []
    for delta in call_deltas(chunks):
        if delta["index"] == len(calls):
            calls.append({"name": delta["function"]["name"], "arguments": ""})
        calls[delta["index"]]["arguments"] += delta["function"]["arguments"]
    is_withdrawn = "oops" in answer and limit > 39
    expected = [call["function"] for call in whole["message"].get("tool_calls", ())]
    assert calls[: len(calls) - is_withdrawn] == expected
    text = "".join(delta.get("content") or "" for delta in deltas(chunks))
    assert text == (whole["message"]["content"] or "")
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]


def test_usage_counts_all_tokens_of_calls() -> None:
    answer = '{"name": "look", "parameters": {"at": "it"}}'
    options: Any = {"tools": [TOOL], "stream_options": {"include_usage": True}}
    chunks = chunks_of(Api(FakeEngine(answer)).chat(stream=True, **options))
    assert chunks[-1]["usage"]["completion_tokens"] == len(answer) + 1


def test_json_that_is_no_call_is_streamed_in_the_end() -> None:
    text = '{"name": "unknown", "parameters": {}}'
    chunks = chunks_of(Api(FakeEngine(text)).chat(stream=True, tools=[TOOL]))
    assert "".join(delta.get("content") or "" for delta in deltas(chunks)) == text
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_has_openais_code(api: Api, stream: bool) -> None:
    api.engine.error = PromptTooLongError("too long", "messages")
    found = error_of(api.chat(stream=stream), 400)
    assert (found["code"], found["param"]) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("too long", "max_new_tokens"), 400, "invalid_request_error"),
        (EngineOverloadedError("full"), 429, "rate_limit_error"),
        (EngineError("dead"), 500, "server_error"),
    ],
)
def test_an_error_before_the_answer_is_a_status(
    api: Api, stream: bool, error: Exception, status: int, kind: str
) -> None:
    api.engine.error = error
    response = api.chat(stream=stream)
    assert error_of(response, status)["type"] == kind
    assert ("retry-after" in response.headers) == (status == 429)
    if status == 400:
        assert error_of(response)["param"] == "max_tokens"
    assert api.engine.running == 0


def test_an_error_within_a_stream_is_its_last_event(api: Api) -> None:
    api.engine.error_after = (3, EngineError("the model failed"))
    response = api.chat(stream=True)
    assert response.status_code == 200
    *_, last, rest = response.text.split("\n\n")
    assert rest == ""
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["message"] == "the model failed (request id)"
    assert error["type"] == "server_error"
    assert api.engine.running == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_the_engine(api: Api, stream: bool) -> None:
    messages: list[Any] = []

    async def run() -> None:
        reached = asyncio.Event()

        async def wait_forever() -> None:
            reached.set()
            await asyncio.Event().wait()

        api.engine.wait = wait_forever
        body = json.dumps({"messages": [USER], "stream": stream}).encode()
        incoming = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            if incoming:
                return incoming.pop()
            await reached.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [],
            "query_string": b"",
        }
        # MAX's middleware handles the exception.
        with suppress(ClientDisconnected):
            await asyncio.wait_for(api.app()(scope, receive, send), 10)

    asyncio.run(run())
    assert api.engine.running == 0
    assert len(api.engine.requests) == 1


def test_the_sdks_helper_gathers_the_message_of_the_whole_answer() -> None:
    api = Api(FakeEngine("one", "three"))

    async def gather() -> Any:
        transport = httpx.ASGITransport(app=api.app())
        client = openai.AsyncOpenAI(
            base_url="http://server/v1",
            api_key="none",
            http_client=httpx.AsyncClient(transport=transport),
        )
        async with client.chat.completions.stream(
            model="served",
            messages=[{"role": "user", "content": "Hi"}],
            n=2,
            logprobs=True,
            stream_options={"include_usage": True},
        ) as stream:
            return await stream.get_final_completion()

    gathered = asyncio.run(gather())
    whole = api.chat(n=2, logprobs=True).json()
    assert [choice.message.content for choice in gathered.choices] == ["one", "three"]
    for found, choice in zip(gathered.choices, whole["choices"], strict=True):
        assert found.message.role == choice["message"]["role"]
        assert found.finish_reason == choice["finish_reason"]
        found_logprobs = found.logprobs.model_dump()["content"]
        assert found_logprobs == choice["logprobs"]["content"]
    assert gathered.usage.total_tokens == whole["usage"]["total_tokens"]
