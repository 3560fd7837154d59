"""The server asks its worker for attention maps after the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.pipelines.context import GenerationStatus
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig
from PIL import Image

from mllama.errors import EngineUnavailableError, RequestError
from mllama.launch.options import EngineOptions
from mllama.requests.attention import AttentionMaps, AttentionOptions, ImageMaps
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.events import AnswerAttention, Event, Finished
from mllama.requests.map_exchange import holds_images, task_of, write_maps
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from mllama.server.attention_client import AttentionClient
from mllama.server.max_engine_client import MaxEngineClient
from mllama.server.request_origin import RequestOrigin
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import RequestQueue

from .stand_in_worker import FULL, StandInWorker

ONE = RequestOrigin(request_id="one")
Test = Callable[[StandInWorker, MaxEngineClient], Awaitable[None]]
Run = Callable[[Test], None]


@pytest.fixture(scope="module")
def model() -> tuple[Any, EngineSettings]:
    """The demo model's tokenizer, and the settings of its engine."""
    options = EngineOptions(devices="cpu", max_length=256)
    config = PipelineConfig.from_args(options.pipeline_args(options.resolve()))
    tokenizer = PIPELINE_REGISTRY.retrieve_factory(config).tokenizer
    return tokenizer, EngineSettings.of(config, tokenizer)


@pytest.fixture
def run(model: tuple[Any, EngineSettings], tmp_path: Path) -> Run:
    """Returns a function that runs a test's coroutine with a worker and its client."""

    def run_test(test: Test) -> None:
        async def main() -> None:
            worker = StandInWorker()
            attention = AttentionClient(tmp_path, model[0])
            client = MaxEngineClient(worker, *model, attention=attention)
            await asyncio.wait_for(test(worker, client), 20)
            assert not worker.pending_out_queues

        asyncio.run(main())
        assert not list(tmp_path.iterdir())

    return run_test


def ask(
    client: MaxEngineClient,
    choices: int = 1,
    options: AttentionOptions | None = None,
    **sampling: Any,
) -> GenerationRequest:
    picture: Any = Image.new("RGB", (40, 40), "red")
    content = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    return GenerationRequest(
        prompt=ChatPrompt(messages=[{"role": "user", "content": content}]),
        images=[client.prepare_image(picture)],
        sampling=Sampling(**sampling),
        choices=choices,
        attention=options or AttentionOptions(),
    )


async def until_answered(
    worker: StandInWorker, client: MaxEngineClient, events: AsyncGenerator[Event, None]
) -> list[int]:
    """Answers a request, and returns the answer's tokens."""
    await anext(events)
    tokens = await client.tokenize("A red square")
    worker.answer("one", tokens[1:], FULL)
    async for event in events:
        if isinstance(event, Finished):
            break
    return tokens[1:]


def map_request(worker: StandInWorker) -> Any:
    """Returns the context of the last request."""
    return worker.contexts()[-1]


def write(path: Path, context: Any) -> None:
    """Writes maps as the worker does."""
    found = task_of(context)
    assert found is not None
    task, _ = found
    (grid,) = task.grids
    count = len(context.tokens.all) - task.first
    shares = np.full((count, grid.rows, grid.columns), 0.001, np.float32)
    rest = np.zeros(count, np.float32)
    image = ImageMaps(grid, shares, rest, rest)
    write_maps(
        path / str(context.request_id), AttentionMaps(task.first, [image], [(3, 2)])
    )


async def attention_of(
    worker: StandInWorker, events: AsyncGenerator[Event, None], count: int
) -> tuple[Any, asyncio.Task[Event]]:
    """Returns the request for maps, and what waits for them."""
    task = asyncio.ensure_future(anext(events))
    await worker.arrival(count)
    return map_request(worker), task


def test_maps_are_asked_for_with_prompt_and_answer(run: Run, tmp_path: Path) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        async with aclosing(client.generate(ask(client), origin=ONE)) as events:
            answer = await until_answered(worker, client, events)
            (first,) = worker.contexts()
            assert holds_images(first)
            asked, event = await attention_of(worker, events, 2)
            assert asked.tokens.all.tolist() == [*first.tokens.prompt.tolist(), *answer]
            found = task_of(asked)
            assert found is not None
            task, answer_id = found
            assert answer_id == "one"
            assert task.first == task.answer == len(first.tokens.prompt)
            assert not holds_images(asked)
            write(tmp_path, asked)
            worker.answer(str(asked.request_id), [5], FULL)
            attention = await event
            assert isinstance(attention, AnswerAttention)
            assert [token.id for token in attention.tokens] == answer
            assert [word.text for word in attention.words] == ["A", "red", "square"]
            assert attention.maps is not None
            assert attention.maps.heads == [(3, 2)]

    run(test)


def test_each_choice_has_maps(run: Run, tmp_path: Path) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        source = client.generate(ask(client, choices=2), origin=ONE)
        async with aclosing(source) as events:
            await anext(events)
            worker.answer("one", [5], FULL)
            collecting = asyncio.ensure_future(collected(events))
            await worker.arrival(2)
            worker.answer("one.1", [6, 7], FULL)
            for number, answer_id in enumerate(("one", "one.1")):
                await worker.arrival(3 + number)
                asked = map_request(worker)
                found = task_of(asked)
                assert found is not None
                assert found[1] == answer_id
                write(tmp_path, asked)
                worker.answer(str(asked.request_id), [5], FULL)
            last = (await collecting)[-2:]
        assert all(isinstance(each, AnswerAttention) for each in last)
        counts = [
            len(each.tokens) for each in last if isinstance(each, AnswerAttention)
        ]
        assert counts == [1, 2]

    run(test)


async def collected(events: AsyncGenerator[Event, None]) -> list[Event]:
    return [event async for event in events]


@pytest.mark.parametrize("end", ["has died", "failed", "wrote no"])
def test_an_answer_outlives_its_maps(run: Run, end: str) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        async with aclosing(client.generate(ask(client), origin=ONE)) as events:
            await until_answered(worker, client, events)
            asked, event = await attention_of(worker, events, 2)
            if end == "has died":
                worker.link.fail(EngineUnavailableError("the worker has died"))
            else:
                status = GenerationStatus.CANCELLED if end == "failed" else FULL
                worker.answer(str(asked.request_id), [], status)
            attention = await event
            assert isinstance(attention, AnswerAttention)
            assert attention.maps is None
            assert attention.error is not None
            assert end in attention.error

    run(test)


def test_maps_have_a_directory_though_the_temporary_one_was_tidied(
    run: Run, tmp_path: Path
) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        tmp_path.rmdir()
        async with aclosing(client.generate(ask(client), origin=ONE)) as events:
            await until_answered(worker, client, events)
            asked, event = await attention_of(worker, events, 2)
            write(tmp_path, asked)
            worker.answer(str(asked.request_id), [5], FULL)
            attention = await event
            assert isinstance(attention, AnswerAttention)
            assert attention.maps is not None
        assert tmp_path.stat().st_mode & 0o777 == 0o700

    run(test)


def test_maps_are_not_written_to_somebody_elses_directory(
    run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")

    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        tmp_path.rmdir()
        tmp_path.symlink_to(other)
        async with aclosing(client.generate(ask(client), origin=ONE)) as events:
            await until_answered(worker, client, events)
            attention = await anext(events)
            assert isinstance(attention, AnswerAttention)
            assert attention.error is not None
            assert "somebody else's" in attention.error

    run(test)


def test_a_client_that_goes_away_leaves_nothing(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        async with aclosing(client.generate(ask(client), origin=ONE)) as events:
            await until_answered(worker, client, events)
            asked, event = await attention_of(worker, events, 2)
            event.cancel()
            await asyncio.gather(event, return_exceptions=True)
        assert str(asked.request_id) in worker.cancelled

    run(test)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"options": AttentionOptions(layers=[2])}, "layer 2 has no cross-attention"),
        ({"options": AttentionOptions(heads=[9])}, "there is no head 9"),
    ],
)
def test_heads_that_the_model_lacks_are_refused(
    run: Run, fields: Any, message: str
) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        with pytest.raises(RequestError, match=message):
            await anext(client.generate(ask(client, **fields), origin=ONE))
        assert not worker.contexts()

    run(test)


def test_maps_that_can_become_too_large_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The image has one tile of 16 patches and a class token.
    monkeypatch.setattr("mllama.requests.attention.MAX_MAP_VALUES", 40 * 17)

    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        for fields in (
            {"max_new_tokens": 41},
            {"max_new_tokens": 21, "choices": 2},
            {"max_new_tokens": 40, "options": AttentionOptions(prompt=True)},
        ):
            request: Any = fields
            with pytest.raises(RequestError, match="are too large"):
                await anext(client.generate(ask(client, **request), origin=ONE))
        assert not worker.contexts()
        async with aclosing(
            client.generate(ask(client, max_new_tokens=40), origin=ONE)
        ) as events:
            await anext(events)

    run(test)


def test_a_client_without_maps_refuses_them(model: tuple[Any, EngineSettings]) -> None:
    async def main() -> None:
        client = MaxEngineClient(StandInWorker(), *model)
        with pytest.raises(RequestError, match="--attention"):
            await anext(client.generate(ask(client), origin=ONE))

    asyncio.run(main())


def test_maps_are_made_in_the_slot_of_their_answer(run: Run, tmp_path: Path) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        queue = RequestQueue(1, limit=10, prepared_ahead=4)
        queued = QueuedEngineClient(client, queue)
        events = queued.generate(ask(client), origin=ONE)
        await until_answered(worker, client, events)
        await worker.arrival(2)
        other = queued.generate(ask(client), origin=RequestOrigin(request_id="two"))
        waiting = asyncio.ensure_future(anext(other))
        await asyncio.sleep(0.2)
        assert "two" not in worker.requests.contexts
        asked = map_request(worker)
        write(tmp_path, asked)
        worker.answer(str(asked.request_id), [5], FULL)
        assert isinstance((await collected(events))[-1], AnswerAttention)
        await waiting
        assert "two" in worker.requests.contexts
        await other.aclose()

    run(test)
