"""Streams of responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from mllama.errors import EngineError, EngineOverloadedError, RequestError
from mllama.max_compat.server import ClientDisconnected
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.server.dialects.openai.responses.answer import response_events
from mllama.server.dialects.openai.responses.body import ResponsesBody
from mllama.server.dialects.openai.responses.response_form import ResponseForm
from mllama.server.dialects.openai.responses.tool_fields import (
    ResponseTool,
    nested_tools,
)
from mllama.server.dialects.openai.responses.writer import ResponseWriter
from mllama.server.usage import UsageCounter
from tests.server.dialects.fake_engine import FakeEngine

from .conftest import CALL, TOOL, Responses, events_of, texts
from .test_answers import LOGPROBS

LOOK = ResponseTool(type="function", name="look")
WITHDRAWN = '{"name": "look", "parameters": {"at": oops'


def without_names(response: Any) -> Any:
    """A response without what is different each time."""
    changing = ("id", "call_id", "created_at", "completed_at")
    if isinstance(response, dict):
        return {
            name: without_names(value)
            for name, value in response.items()
            if name not in changing
        }
    return (
        list(map(without_names, response)) if isinstance(response, list) else response
    )


def of_kind(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event["type"] == f"response.{kind}"]


def test_a_message_has_all_of_its_events(api: Responses) -> None:
    api.engine.texts = ("Hé!",)
    events = events_of(api.respond(stream=True))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    created, started, added, part_added, *rest = events
    assert created["response"] == started["response"]
    assert created["response"]["status"] == "in_progress"
    assert (created["response"]["output"], created["response"]["usage"]) == ([], None)
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert part_added["part"]["text"] == ""
    deltas, (done, part_done, item_done, completed) = rest[:-4], rest[-4:]
    assert [event["delta"] for event in deltas] == ["H", "é", "!"]
    assert done["text"] == part_done["part"]["text"] == "Hé!"
    (item,) = completed["response"]["output"]
    assert item_done["item"] == item
    assert {event["item_id"] for event in (part_added, *deltas, done, part_done)} == {
        item["id"]
    }
    assert len({event["response"]["id"] for event in (created, completed)}) == 1
    assert texts(completed["response"]) == ["Hé!"]


def test_a_call_has_all_of_its_events() -> None:
    api = Responses(FakeEngine(CALL))
    strict = {**TOOL, "strict": True}
    # A call begins with the brace and the key's quote together.
    pieces = ['{"', *'at": "it"}']
    for options in ({"tools": [TOOL]}, {"tools": [strict]}):
        events = events_of(api.respond(stream=True, **options))
        kinds = [event["type"].removeprefix("response.") for event in events[2:]]
        assert kinds == [
            "output_item.added",
            *["function_call_arguments.delta"] * len(pieces),
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        added, *deltas, done, item_done, completed = events[2:]
        assert added["item"]["arguments"] == ""
        assert [event["delta"] for event in deltas] == pieces
        assert done["arguments"] == '{"at": "it"}'
        (item,) = completed["response"]["output"]
        assert item_done["item"] == item
        assert item["status"] == "completed"
        assert added["item"]["call_id"] == item["call_id"]


@pytest.mark.parametrize("are_calls_certain", [True, False])
def test_arguments_are_sent_as_they_come_where_a_call_is_certain(
    are_calls_certain: bool,
) -> None:
    log: list[str] = []
    engine = FakeEngine(CALL)
    form = ResponseForm(
        body=ResponsesBody(input="Hi"), model="m", token_bytes=engine.token_bytes
    )
    prompt = ChatPrompt(
        messages=[{"role": "user", "content": "Hi"}], tools=nested_tools([LOOK])
    )

    async def source() -> AsyncIterator[Event]:
        async for event in engine.generate(GenerationRequest(prompt=prompt)):
            log.append(type(event).__name__)
            yield event

    async def send() -> None:
        async for part in response_events(
            source(),
            ResponseWriter(form, UsageCounter()),
            are_calls_certain=are_calls_certain,
        ):
            log.append(part.decode())

    asyncio.run(send())
    end = log.index("ToolCallEnded")
    added = next(i for i, each in enumerate(log) if "output_item.added" in each)
    assert (added < end) is are_calls_certain


@pytest.mark.parametrize(
    "answer",
    [
        f'{CALL}; {{"name": "look", "parameters": {{ "at" : "\\u00e9" }}}}',
        f"[{CALL}, {CALL}] Done.",
        "[look(at='it', n=1.5), look()]",
        WITHDRAWN,
        f"{CALL}; {WITHDRAWN}",
        "Text 😀.",
        "",
    ],
)
@pytest.mark.parametrize("limit", [1000, 45, 28])
@pytest.mark.parametrize("tool", [TOOL, {**TOOL, "strict": True}])
def test_a_stream_ends_with_the_whole_response(
    answer: str, limit: int, tool: Any
) -> None:
    options: Any = {"tools": [tool], "max_output_tokens": limit, **LOGPROBS}
    whole = Responses(FakeEngine(answer)).answer(**options)
    events = events_of(Responses(FakeEngine(answer)).respond(stream=True, **options))
    last = events[-1]
    assert last["type"] == f"response.{whole['status']}"
    assert without_names(last["response"]) == without_names(whole)
    # Each item of the response has been announced and completed, in order.
    done = [event["item"] for event in of_kind(events, "output_item.done")]
    kept = [item for item in done if item in last["response"]["output"]]
    assert kept == last["response"]["output"]
    places = [event["output_index"] for event in of_kind(events, "output_item.added")]
    assert places == list(range(len(done)))
    assert "".join(
        event["delta"] for event in of_kind(events, "output_text.delta")
    ) == "".join(texts(whole))


def test_what_turns_out_to_be_no_call_is_never_an_item() -> None:
    api = Responses(FakeEngine(f"{CALL}; {WITHDRAWN}"))
    events = events_of(api.respond(stream=True, tools=[TOOL]))
    done = [event["item"] for event in of_kind(events, "output_item.done")]
    assert [item["type"] for item in done] == ["function_call", "message"]
    assert texts(events[-1]["response"]) == [f"; {WITHDRAWN}"]


def test_a_call_withdrawn_against_expectation_is_no_part_of_the_response() -> None:
    """A grammar keeps calls of strict functions; the fake engine obeys none."""
    api = Responses(FakeEngine(WITHDRAWN))
    events = events_of(api.respond(stream=True, tools=[{**TOOL, "strict": True}]))
    done = [event["item"] for event in of_kind(events, "output_item.done")]
    assert [(item["type"], item["status"]) for item in done] == [
        ("function_call", "incomplete"),
        ("message", "completed"),
    ]
    assert events[-1]["response"]["output"] == done[1:]


def test_log_probabilities_come_with_their_text() -> None:
    api = Responses(FakeEngine("a😀"))
    events = events_of(api.respond(stream=True, **LOGPROBS, top_logprobs=2))
    first, second = of_kind(events, "output_text.delta")
    assert [entry["bytes"] for entry in first["logprobs"]] == [[97]]
    assert len(second["logprobs"]) == 4
    (done,) = of_kind(events, "output_text.done")
    assert done["logprobs"] == first["logprobs"] + second["logprobs"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("the model failed"), "server_error"),
        (EngineOverloadedError("full"), "rate_limit_exceeded"),
        (RequestError("too long"), "invalid_prompt"),
        (KeyError("unforeseen"), "server_error"),
    ],
)
def test_an_error_within_a_stream_is_its_last_event(
    api: Responses, error: Exception, code: str
) -> None:
    api.engine.error_after = (3, error)
    events = events_of(api.respond(stream=True))
    last = events[-1]
    assert last["type"] == "response.failed"
    response = last["response"]
    assert response["status"] == "failed"
    assert response["error"]["code"] == code
    assert response["error"]["message"]
    assert "unforeseen" not in response["error"]["message"]
    # The beginning of the answer isn't lost.
    assert texts(response) == ["He"]
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 2
    assert api.engine.running == 0


class Shape(BaseModel):
    kind: str


def sdk(api: Responses) -> openai.AsyncOpenAI:
    """OpenAI's SDK, connected to a server in this process."""
    transport = httpx.ASGITransport(app=api.app())
    return openai.AsyncOpenAI(
        base_url="http://server/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.AsyncClient(transport=transport),
    )


@pytest.mark.parametrize(
    "answer", ['{"kind": "star"}', f"{CALL}; {CALL}", f"{CALL} Done.", WITHDRAWN, ""]
)
@pytest.mark.parametrize("is_strict", [False, True])
def test_the_sdks_helper_gathers_the_whole_response(
    answer: str, is_strict: bool
) -> None:
    api = Responses(FakeEngine(answer))
    tool: Any = {**TOOL, "strict": is_strict}

    async def gather() -> Any:
        async with sdk(api).responses.stream(
            model="served", input="Hi", tools=[tool]
        ) as stream:
            kinds = [event.type async for event in stream]
            return kinds, await stream.get_final_response()

    kinds, response = asyncio.run(gather())
    assert kinds[-1] == "response.completed"
    whole = api.answer(tools=[tool])
    assert response.output_text == "".join(texts(whole))
    calls = [item for item in whole["output"] if item["type"] == "function_call"]
    found = [item for item in response.output if item.type == "function_call"]
    assert [item.arguments for item in found] == [item["arguments"] for item in calls]


def test_the_sdk_parses_an_answer_in_a_format() -> None:
    api = Responses(FakeEngine('{"kind": "star"}'))

    async def parse() -> tuple[Any, Any]:
        response = await sdk(api).responses.parse(
            model="served", input="Hi", text_format=Shape
        )
        async with sdk(api).responses.stream(
            model="served", input="Hi", text_format=Shape
        ) as stream:
            return response, await stream.get_final_response()

    for response in asyncio.run(parse()):
        assert response.output_parsed == Shape(kind="star")
    output_format = api.engine.requests[0].output_format
    assert output_format is not None
    assert output_format.is_strict


def test_the_sdk_is_told_of_an_error_in_a_stream(api: Responses) -> None:
    api.engine.error_after = (3, EngineError("the model failed"))

    async def gather() -> list[Any]:
        stream = await sdk(api).responses.create(
            model="served", input="Hi", stream=True
        )
        return [event async for event in stream]

    last = asyncio.run(gather())[-1]
    assert last.type == "response.failed"
    assert last.response.error.message.startswith("the model failed (request ")


def test_an_answer_of_the_sdk_is_a_valid_next_turn() -> None:
    api = Responses(FakeEngine(f"{CALL}; {CALL} Done."))

    async def converse() -> None:
        responses = sdk(api).responses
        items: Any = [{"role": "user", "content": "Hi"}]
        tool: Any = TOOL
        for _ in range(2):
            response = await responses.parse(model="served", input=items, tools=[tool])
            items += response.output
            items += [
                {
                    "type": "function_call_output",
                    "call_id": item.call_id,
                    "output": "a circle",
                }
                for item in response.output
                if item.type == "function_call"
            ]

    asyncio.run(converse())
    roles = [message["role"] for message in api.prompt().messages]
    assert roles == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_the_engine(api: Responses, stream: bool) -> None:
    async def run() -> None:
        reached = asyncio.Event()

        async def wait_forever() -> None:
            reached.set()
            await asyncio.Event().wait()

        api.engine.wait = wait_forever
        body = json.dumps({"input": "Hi", "stream": stream}).encode()
        incoming = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            if incoming:
                return incoming.pop()
            await reached.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/responses",
            "headers": [],
            "query_string": b"",
        }
        # MAX's middleware handles the exception.
        with suppress(ClientDisconnected):
            await asyncio.wait_for(api.app()(scope, receive, send), 10)

    asyncio.run(run())
    assert api.engine.running == 0
    assert len(api.engine.requests) == 1
