"""A front answers as a server with an engine of its own does."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from mllama.cluster.replica_states import ReplicaStates
from mllama.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    PromptTooLongError,
    RequestError,
)
from mllama.requests.events import Accepted, Piece
from mllama.requests.request import GenerationRequest

from ..server.dialects.fake_engine import FakeEngine
from ..server.dialects.in_process import InProcessServer
from .local_replicas import LocalCluster, LocalReplica, image_chat

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
CALL = '{"name": "look", "parameters": {}}'


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "served", "messages": [USER], **fields}


def without_times(text: str) -> str:
    """A response's text without what differs between two equal ones."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: plain(each)
                for name, each in value.items()
                if name not in ("id", "created", "call_id", "item_id")
                and not name.endswith(("_duration", "_at"))
            }
        return [plain(each) for each in value] if isinstance(value, list) else value

    lines = []
    for line in text.splitlines():
        data = line.removeprefix("data: ")
        lines.append(json.dumps(plain(json.loads(data))) if data[:1] == "{" else line)
    return "\n".join(lines)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat()),
        (CHAT, chat(n=2, logprobs=True, top_logprobs=3)),
        (CHAT, chat(stop=["l"], max_tokens=4)),
        (CHAT, image_chat(b"one")),
        (CHAT, image_chat(b"broken")),
        (CHAT, chat(tools=[TOOL])),
        (CHAT, chat(response_format={"type": "json_object"})),
        ("/v1/completions", {"model": "served", "prompt": "Hi", "echo": True}),
        (
            "/v1/messages",
            {"model": "served", "max_tokens": 9, "messages": [USER]},
        ),
        ("/v1/responses", {"model": "served", "input": "Hi"}),
        ("/api/chat", {"model": "served", "messages": [USER]}),
    ],
)
def test_answers_are_those_of_a_server(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    text = CALL if "tools" in body else "Hello!"
    alone = InProcessServer(FakeEngine(text)).post(path, {**body, "stream": stream})
    cluster = LocalCluster([LocalReplica("first", FakeEngine(text))])
    response = cluster.server.post(path, {**body, "stream": stream})
    assert response.status_code == alone.status_code
    assert without_times(response.text) == without_times(alone.text)


def images_of_anthropic(*contents: bytes) -> dict[str, Any]:
    """A message with pictures, after one without."""
    parts = [
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": "image/png",
                "data": base64.b64encode(content).decode(),
            },
        }
        for content in contents
    ]
    turns = [USER, {"role": "assistant", "content": "Yes?"}]
    messages = [*turns, {"role": "user", "content": parts}]
    return {"model": "served", "messages": messages}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {"model": "served", "prompt": "Hi"}, 200),
        ("/v1/messages/count_tokens", {"model": "served", "messages": [USER]}, 200),
        ("/v1/messages/count_tokens", images_of_anthropic(b"one", b"two"), 200),
        ("/v1/messages/count_tokens", images_of_anthropic(b"one", b"broken"), 400),
    ],
)
def test_prompts_are_tokenized_and_counted(
    path: str, body: dict[str, Any], status: int
) -> None:
    alone, cluster = InProcessServer(), LocalCluster([LocalReplica("a", FakeEngine())])
    response = cluster.server.post(path, body)
    assert response.status_code == status, response.text
    assert response.json() == alone.post(path, body).json()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestError("min_tokens is wrong", "min_tokens"), 400),
        (PromptTooLongError("the prompt is too long", "messages"), 400),
        (EngineOverloadedError("too many", 7), 429),
        (EngineError("the model failed on it"), 500),
        (EngineUnavailableError("no worker", 9), 503),
        (ZeroDivisionError("a bug"), 500),
    ],
)
def test_errors_keep_their_kind(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine()
    engine.error = error
    response = LocalCluster([LocalReplica("first", engine)]).server.post(CHAT, chat())
    assert response.status_code == status
    told = response.json()["error"]
    if isinstance(error, ZeroDivisionError):
        assert "node-of-first" in told["message"]
        assert "a bug" in caplog.text
    else:
        assert str(error) in told["message"]
    assert told["param"] == getattr(error, "param", None)
    if status in (429, 503):
        retry = getattr(error, "retry_after", 0)
        assert response.headers["retry-after"] == str(retry)


def test_an_engine_that_has_failed_is_temporary(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine()
    engine.error = RuntimeError("the engine has failed")
    replica = LocalReplica("first", engine, has_failed=True)
    response = LocalCluster([replica]).server.post(CHAT, chat())
    assert response.status_code == 503
    assert "node-of-first has failed" in response.json()["error"]["message"]
    assert "is replaced" in caplog.text


def test_a_request_moves_on_from_a_replica_that_dies_before_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = LocalCluster(
        [
            LocalReplica("dead", FakeEngine("No."), dies_after=0),
            LocalReplica("silent", FakeEngine("No."), dies_after=1),
            LocalReplica("alive", FakeEngine("Yes.")),
        ]
    )
    cluster.replicas[1].engine.wait = lambda: asyncio.sleep(0.01)
    with caplog.at_level(logging.WARNING, "mllama"):
        response = cluster.server.post(CHAT, chat())
    assert response.json()["choices"][0]["message"]["content"] == "Yes."
    assert response.headers["x-replica-id"] == "alive"
    assert caplog.text.count("is sent to another replica") == 2


def test_a_replica_that_dies_amid_an_answer_ends_it_with_a_clear_error() -> None:
    engine = FakeEngine("Hello!")
    engine.wait = lambda: asyncio.sleep(0.01)
    cluster = LocalCluster([LocalReplica("first", engine, dies_after=4)])
    response = cluster.server.post(CHAT, chat(stream=True))
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    message = json.loads(last.removeprefix("data: "))["error"]["message"]
    assert message.startswith("the replica on node node-of-first that had the request")
    whole = cluster.server.post(CHAT, chat())
    assert whole.status_code == 503
    assert whole.headers["retry-after"] == "5"


def test_without_a_replica_requests_are_refused_at_once() -> None:
    cluster = LocalCluster([])
    response = cluster.server.post(CHAT, image_chat(b"one"))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert cluster.handle.responses == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat()),
        ("/tokenize", {"model": "served", "prompt": "Hi"}),
        ("/v1/messages/count_tokens", {"model": "served", "messages": [USER]}),
    ],
)
def test_a_request_that_waits_is_refused_when_the_last_replica_has_gone(
    path: str, body: dict[str, Any]
) -> None:
    cluster = LocalCluster([])
    cluster.states.update(1)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=cluster.server.app())
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server"
        ) as client:
            task = asyncio.create_task(client.post(path, json=body))
            while not cluster.handle.responses:
                await asyncio.sleep(0.001)
            cluster.states.update(0)
            return await asyncio.wait_for(task, 10)

    response = asyncio.run(ask())
    assert response.status_code == 503
    assert cluster.handle.responses[0].is_cancelled


def test_a_client_that_leaves_cancels_its_request() -> None:
    engine = FakeEngine("Hello!" * 100)
    engine.wait = lambda: asyncio.sleep(0.001)
    cluster = LocalCluster([LocalReplica("first", engine)])

    async def leave() -> None:
        generation = cluster.client.generate(GenerationRequest(prompt="Hi"))
        async with aclosing(generation) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        assert cluster.handle.responses[0].is_cancelled
        assert engine.running == 0

    asyncio.run(leave())


def test_what_is_ready_comes_together() -> None:
    cluster = LocalCluster([LocalReplica("first", FakeEngine("Hello!"))])
    answers = cluster.replicas[0].answers

    async def messages() -> list[int]:
        from mllama.cluster.messages import RemoteRequest

        request = RemoteRequest(request=GenerationRequest(prompt="Hi"), images=[])
        sizes = []
        async for message in answers.answer(request):
            sizes.append(len(message))
            # As a slow connection would.
            await asyncio.sleep(0.05)
        return sizes

    sizes = asyncio.run(messages())
    assert sum(sizes) == 1 + 1 + 1 + len("Hello!") + 1 + 1
    assert len(sizes) < 4


def test_an_answer_begins_once() -> None:
    engine = FakeEngine("Yes.")
    engine.wait = lambda: asyncio.sleep(0.01)
    cluster = LocalCluster(
        [LocalReplica("silent", engine, dies_after=1), LocalReplica("alive", engine)]
    )

    async def events() -> list[Any]:
        generation = cluster.client.generate(GenerationRequest(prompt="Hi"))
        return [event async for event in generation]

    assert [isinstance(event, Accepted) for event in asyncio.run(events())].count(
        True
    ) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda states: states.check(),
        lambda states: states.unavailable(),
    ],
)
def test_states_say_when_to_try_again(ask: Callable[[ReplicaStates], Any]) -> None:
    states = ReplicaStates(lambda: 0)
    try:
        error = ask(states)
    except EngineUnavailableError as raised:
        error = raised
    assert "try again in 5 s" in str(error)


def test_states_follow_the_controller(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[int | Exception] = [1, 2, RuntimeError("no controller"), 3]

    def ask() -> int:
        answer = answers.pop(0) if answers else 3
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def watch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mllama.cluster.replica_states._PERIOD_SECONDS", 0.001)
        states = ReplicaStates(ask)
        async with states.watched():
            assert states.number == 1
            while states.number != 3:
                await asyncio.sleep(0.001)

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(asyncio.wait_for(watch(patch), 10))
    assert "can't be asked: no controller" in caplog.text
