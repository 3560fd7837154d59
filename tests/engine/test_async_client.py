"""The engine answers requests of an event loop as it answers those of ``LLM``."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from mllama.engine.async_client import AsyncEngineClient
from mllama.llm import LLM
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Accepted, Finished, Piece, PromptRead
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling

MESSAGES = [{"role": "user", "content": "What is in the picture?"}]


def request(**fields: Any) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=8, ignore_eos=True)
    return GenerationRequest(
        prompt=ChatPrompt(messages=MESSAGES), **{"sampling": sampling, **fields}
    )


def run(test: Any) -> Any:
    return asyncio.run(asyncio.wait_for(test, 120))


def test_answers_are_those_of_llm(llm: LLM) -> None:
    expected = llm.chat(MESSAGES, max_new_tokens=8, ignore_eos=True)

    async def test() -> None:
        client = AsyncEngineClient(llm._engine)

        async def answer() -> list[Any]:
            return [event async for event in client.generate(request())]

        for events in await asyncio.gather(*(answer() for _ in range(10))):
            accepted, read = events[:2]
            assert isinstance(accepted, Accepted)
            assert isinstance(read, PromptRead)
            assert list(read.token_ids) == expected.prompt_token_ids
            pieces = [event for event in events if isinstance(event, Piece)]
            assert "".join(piece.text for piece in pieces) == expected.text
            assert isinstance(events[-1], Finished)
        prompt = ChatPrompt(messages=MESSAGES)
        assert await client.tokenize(prompt) == expected.prompt_token_ids
        assert await client.count_tokens(prompt, []) == expected.prompt_tokens

    run(test())


def test_several_answers_come_interleaved(llm: LLM) -> None:
    async def test() -> None:
        client = AsyncEngineClient(llm._engine)
        ended = [
            event.choice
            async for event in client.generate(request(choices=3))
            if isinstance(event, Finished)
        ]
        assert sorted(ended) == [0, 1, 2]

    run(test())


def test_an_answer_that_is_given_up_is_cancelled(llm: LLM) -> None:
    async def test() -> None:
        client = AsyncEngineClient(llm._engine)
        endless = request(sampling=Sampling(max_new_tokens=200, ignore_eos=True))
        async with aclosing(client.generate(endless)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        end = time.monotonic() + 30
        while len(llm._engine._running):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    run(test())
