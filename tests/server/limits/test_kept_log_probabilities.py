"""What the log probabilities of all requests take together is bounded."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from mllama.batch.lines import BatchLine, encode_body
from mllama.errors import EngineOverloadedError
from mllama.requests.events import Piece, TokenLogprob
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from mllama.server.arrival.shared_memory import (
    RequestMemory,
    SharedMemory,
    give_memory,
)
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.dialects.openai.merged_events import merged
from mllama.server.kept_log_probabilities import KeptLogProbabilities
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from tests.server.dialects.fake_engine import FakeEngine
from tests.server.dialects.in_process import InProcessServer

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def new_server(most: int) -> InProcessServer:
    """A server whose answers have 50 tokens."""
    memory = SharedMemory(log_probabilities=most)
    return InProcessServer(engine=FakeEngine("a" * 50), memory=memory)


def test_one_client_has_half_of_them() -> None:
    kept = KeptLogProbabilities(100)
    kept.keep("a", 50)
    with pytest.raises(EngineOverloadedError) as raised:
        kept.keep("a", 1)
    assert raised.value.retry_after == 10
    kept.keep("b", 50)
    with pytest.raises(EngineOverloadedError):
        kept.keep("c", 1)
    kept.drop("a", 20)
    kept.keep("a", 20)
    for client in ("a", "b"):
        kept.drop(client, 50)
    assert kept.count == 0


def test_a_request_that_has_ended_keeps_nothing() -> None:
    memory = SharedMemory(log_probabilities=100)
    share = RequestMemory(memory, "a")
    share.log_probabilities.keep(50)
    assert memory.log_probabilities.count == 50
    share.log_probabilities.drop(10)
    share.release()
    share.log_probabilities.keep(50)
    share.log_probabilities.drop(50)
    share.release()
    assert memory.log_probabilities.count == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", {"prompt": "a", "logprobs": 2, "max_tokens": 50}),
        ("/v1/completions", {"prompt": ["a"] * 3, "logprobs": 0, "max_tokens": 50}),
        ("/v1/completions", {"prompt": "a" * 50, "prompt_logprobs": 2}),
        (
            "/api/generate",
            {
                "model": "served",
                "prompt": "a",
                "logprobs": True,
                "top_logprobs": 2,
                "stream": False,
            },
        ),
        (
            "/v1/responses",
            {
                "input": "Hi",
                "include": ["message.output_text.logprobs"],
                "top_logprobs": 2,
            },
        ),
    ],
)
def test_an_answer_that_would_be_too_much_is_a_429(path: str, body: Any) -> None:
    server = new_server(2 * 140)
    response = server.post(path, body)
    assert response.status_code == 429, response.text
    assert int(response.headers["retry-after"]) >= 1
    assert "too many log probabilities" in response.text
    assert (server.memory.log_probabilities.count, server.engine.running) == (0, 0)
    server = new_server(2 * 160)
    assert server.post(path, body).status_code == 200
    assert server.memory.log_probabilities.count == 0


def test_requests_share_them_until_they_end() -> None:
    """Each alone has few enough."""
    server = new_server(2 * 80)
    body = {"messages": MESSAGES, "logprobs": True}
    line = BatchLine(1, "one", CHAT, encode_body(body))
    answers = LineAnswers(
        server.engine, server.capabilities, server.fetcher, server.memory
    )

    async def main() -> None:
        results = await asyncio.gather(*(answers(line) for _ in range(3)))
        assert sorted(each.status for each in results)[-1] == 429
        assert server.memory.log_probabilities.count == 0
        assert (await answers(line)).status == 200
        # One that is given up.
        server.engine.wait = lambda: asyncio.sleep(0.001)
        task = asyncio.ensure_future(answers(line))
        while server.memory.log_probabilities.count < 10:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert server.memory.log_probabilities.count == 0

    asyncio.run(asyncio.wait_for(main(), 30))


REQUEST = GenerationRequest(
    prompt="Hi", sampling=Sampling(max_new_tokens=50, logprobs=1)
)


async def followed(engine: FakeEngine) -> None:
    """Waits until an engine has nothing to do."""
    while engine.running:
        await asyncio.sleep(0)


@pytest.mark.parametrize("most", [2 * 100, 2 * 90])
def test_a_stream_that_nobody_reads_is_counted(most: int) -> None:
    server = new_server(most)
    client = QueuedEngineClient(server.engine, server.queue)
    kept = server.memory.log_probabilities
    tokens = 0

    async def read() -> None:
        nonlocal tokens
        give_memory({}, RequestMemory(server.memory, "a"))
        async with aclosing(client.generate(REQUEST)) as events:
            await anext(events)
            await followed(server.engine)
            assert kept.count == min(100, most // 2)
            async for event in events:
                if isinstance(event, Piece):
                    tokens += len(event.token_ids)

    if most >= 2 * 100:
        asyncio.run(asyncio.wait_for(read(), 30))
        assert tokens == 50
    else:
        with pytest.raises(EngineOverloadedError):
            asyncio.run(asyncio.wait_for(read(), 30))
        assert tokens == 45
    assert kept.count == 0


def test_a_stream_that_is_read_takes_nothing() -> None:
    server = new_server(2 * 10)
    body = {"messages": MESSAGES, "logprobs": True, "stream": True}
    response = server.post(CHAT, body)
    assert response.status_code == 200
    assert '"error"' not in response.text
    assert server.memory.log_probabilities.count == 0


def test_a_stream_that_is_given_up_gives_everything_back() -> None:
    server = new_server(1000)
    client = QueuedEngineClient(server.engine, server.queue)
    kept = server.memory.log_probabilities

    async def main() -> None:
        give_memory({}, RequestMemory(server.memory, "a"))
        async with aclosing(client.generate(REQUEST)) as events:
            await anext(events)
            await followed(server.engine)
            assert kept.count == 100
        assert kept.count == 0

    asyncio.run(asyncio.wait_for(main(), 30))


def test_events_of_several_prompts_wait_where_they_are_counted() -> None:
    made = 0

    async def start() -> Any:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield Piece(0, "a", [1], [TokenLogprob(1, -1.0)])

    async def main() -> None:
        async with aclosing(merged([start, start], 2)) as events:
            await anext(events)
            for _ in range(100):
                await asyncio.sleep(0)
            assert made < 50
            rest = [event async for event in events]
            assert len(rest) == 1999

    asyncio.run(asyncio.wait_for(main(), 30))
