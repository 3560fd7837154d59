"""Requests reach MAX's worker, and its reports come back as events or typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from max.pipelines.context import TextAndVisionContext
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig
from max.pipelines.modeling.types import (
    msgpack_numpy_oob_decoder,
    msgpack_numpy_oob_encoder,
)
from PIL import Image

from mllama.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ImageError,
    RequestError,
)
from mllama.image_cache.shared_pixels import SharedPixels, image_pixels
from mllama.launch.options import EngineOptions
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.events import Accepted, Event, Finished, Piece, PromptRead
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from mllama.server.engine_client import EngineClient
from mllama.server.max_engine_client import MaxEngineClient
from mllama.server.request_origin import RequestOrigin

from .stand_in_worker import FULL, StandInWorker

ONE = RequestOrigin(request_id="one")

HELLO = ChatPrompt(messages=[{"role": "user", "content": "Hello"}])


def chat(text: str, **options: Any) -> ChatPrompt:
    """Returns a prompt of one question."""
    return ChatPrompt(messages=[{"role": "user", "content": text}], **options)


Test = Callable[[StandInWorker, MaxEngineClient], Awaitable[None]]


@pytest.fixture(scope="module")
def model() -> tuple[Any, EngineSettings]:
    """The demo model's tokenizer, and the settings of its engine."""
    options = EngineOptions(devices="cpu", max_length=64)
    config = PipelineConfig.from_args(options.pipeline_args(options.resolve()))
    tokenizer = PIPELINE_REGISTRY.retrieve_factory(config).tokenizer
    return tokenizer, EngineSettings.of(config, tokenizer)


class LateImages:
    """One picture, which is made when it is loaded."""

    def __init__(self, client: MaxEngineClient, color: str) -> None:
        self._client = client
        self._color = color
        self.loaded = False

    def __len__(self) -> int:
        return 1

    async def load(self) -> list[Any]:
        self.loaded = True
        is_broken = self._color == "no color"
        image: Any = b"" if is_broken else Image.new("RGB", (40, 40), self._color)
        return [await asyncio.wrap_future(self._client.prepare_image(image))]


Run = Callable[[Test], None]


@pytest.fixture
def run(model: tuple[Any, EngineSettings]) -> Run:
    """Returns a function that runs a test's coroutine with a worker and its client."""

    def run_test(test: Test) -> None:
        async def main() -> None:
            worker = StandInWorker()
            await asyncio.wait_for(test(worker, MaxEngineClient(worker, *model)), 20)
            assert not worker.pending_out_queues

        asyncio.run(main())

    return run_test


def ask(prompt: Any = HELLO, choices: int = 1, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt, sampling=Sampling(**sampling), choices=choices
    )


async def collected(events: AsyncGenerator[Event, None]) -> list[Event]:
    return [event async for event in events]


def texts(events: list[Event], choices: int = 1) -> list[str]:
    pieces = [event for event in events if isinstance(event, Piece)]
    return [
        "".join(piece.text for piece in pieces if piece.choice == choice)
        for choice in range(choices)
    ]


def test_events_come_in_order_and_the_engine_is_a_client(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        engine: EngineClient = client
        events = engine.generate(ask(), origin=ONE)
        assert await anext(events) == Accepted()
        (context,) = worker.contexts()
        assert str(context.request_id) == "one"
        tokens = await engine.tokenize("Hi there")
        worker.answer("one", tokens[1:2], cached=3)
        worker.answer("one", tokens[2:], FULL)
        read, *answer = await collected(events)
        assert isinstance(read, PromptRead)
        assert list(read.token_ids) == context.tokens.prompt.tolist()
        assert read.cached_tokens == 3
        assert texts(answer) == ["Hi there"]
        end = answer[-1]
        assert isinstance(end, Finished)
        assert (end.reason, end.completion_tokens) == ("length", len(tokens) - 1)
        assert not worker.cancelled

    run(test)


def test_settings_reach_the_worker(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        request = ask(
            [5, 6, 7],
            temperature=0.5,
            seed=3,
            min_tokens=2,
            max_new_tokens=9,
            stop="never a sequence of tokens",
            stop_token_ids=[11],
            logit_bias={4: 1.5},
            logprobs=0,
        )
        async with aclosing(client.generate(request)) as events:
            await anext(events)
        (context,) = worker.contexts()
        assert context.tokens.prompt.tolist() == [5, 6, 7]
        assert context.max_length == 3 + 9
        params = context.sampling_params
        assert (params.temperature, params.seed, params.top_k) == (0.5, 3, -1)
        assert params.min_new_tokens == 2
        assert 11 in context.eos_tracker.eos_token_ids
        assert client.settings.end_tokens < context.eos_tracker.eos_token_ids
        assert not context.eos_tracker.eos_sequences
        assert context.extra_model_args["logit_bias_tokens"].tolist() == [4]
        # MAX takes 0 for no log probabilities.
        assert context.log_probabilities == 1

    run(test)


def test_ignored_end_tokens_leave_stop_tokens(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        request = ask(ignore_eos=True, stop_token_ids=[11])
        async with aclosing(client.generate(request)) as events:
            await anext(events)
        assert worker.contexts()[0].eos_tracker.eos_token_ids == {11}

    run(test)


def test_a_stop_string_cancels_the_request(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        events = client.generate(ask(stop="there"), origin=ONE)
        await anext(events)
        worker.answer("one", (await client.tokenize("Hi there"))[1:])
        got = await collected(events)
        assert texts(got) == ["Hi "]
        assert isinstance(got[-1], Finished)
        assert got[-1].stop == "there"
        assert worker.cancelled == ["one"]

    run(test)


def test_other_choices_wait_for_the_first_ones_token(run: Run) -> None:
    """Then the caches have the prompt, and the others compute only its last block."""

    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        a, b, c = (await client.tokenize("abc"))[1:4]
        events = client.generate(ask(choices=3, seed=7), origin=ONE)
        await anext(events)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(worker.contexts()) == 1
        reading = asyncio.ensure_future(collected(events))
        worker.answer("one", [a])
        await worker.arrival(3)
        assert [str(each.request_id) for each in worker.contexts()] == [
            "one",
            "one.1",
            "one.2",
        ]
        seeds = [each.sampling_params.seed for each in worker.contexts()]
        assert seeds == [7, 8, 9]
        first, second, _ = worker.contexts()
        assert first.tokens.array is not second.tokens.array
        worker.answer("one.2", [c], FULL)
        worker.answer("one", [b], FULL)
        worker.answer("one.1", [b], FULL)
        got = await reading
        assert texts(got, 3) == ["ab", "b", "c"]
        assert sum(isinstance(event, PromptRead) for event in got) == 1
        assert sorted(e.choice for e in got if isinstance(e, Finished)) == [0, 1, 2]
        assert not worker.cancelled

    run(test)


def test_other_choices_wait_for_room_in_the_queue(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        (a,) = (await client.tokenize("a"))[1:]
        worker.requests.room = 1
        events = client.generate(ask(choices=2), origin=ONE)
        await anext(events)
        reading = asyncio.ensure_future(collected(events))
        worker.answer("one", [a], FULL)
        await asyncio.sleep(0.01)
        assert len(worker.contexts()) == 1
        worker.requests.room = 2
        await worker.arrival(2)
        worker.answer("one.1", [a], FULL)
        assert texts(await reading, 2) == ["a", "a"]

    run(test)


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("answered", [False, True])
def test_closing_the_events_cancels_all_choices(
    run: Run, choices: int, answered: bool
) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        events = client.generate(ask(choices=choices), origin=ONE)
        await anext(events)
        if answered:
            worker.answer("one", [5])
            await anext(events)
            await worker.arrival(choices)
        await events.aclose()
        assert sorted(worker.cancelled) == sorted(worker.requests.contexts)

    run(test)


def test_cancelling_the_task_cancels_the_request(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        task = asyncio.ensure_future(collected(client.generate(ask())))
        await worker.arrival(1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(worker.cancelled) == 1

    run(test)


@pytest.mark.parametrize(
    ("request_", "complaint", "param"),
    [
        (ask([10**9]), "token ids from 0 to", "prompt"),
        (ask(stop_token_ids=[10**9]), "stop_token_ids must have", "stop_token_ids"),
        (ask("a " * 64), "too long: it has .* may have 64", "prompt"),
        (ask("a " * 10, min_tokens=60), "min_tokens must be at most", "min_tokens"),
        (ask(chat("a " * 64)), "too long: it has .* may have 64", "messages"),
        (
            ask(chat("Hi", chat_template_kwargs={"mood": "calm"})),
            "'mood' is not a variable",
            "chat_template_kwargs",
        ),
        (
            ask(
                ChatPrompt(
                    messages=[{"role": "assistant", "content": []}],
                    continue_final_message=True,
                )
            ),
            "doesn't end in text",
            "continue_final_message",
        ),
        (ask("no <|image|> here"), "1 image placeholders, but 0 images", "prompt"),
        (
            ask(
                ChatPrompt(messages=[{"role": "user", "content": [{"type": "image"}]}])
            ),
            "1 image placeholders, but 0 images",
            "messages",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_at_once(
    run: Run, request_: GenerationRequest, complaint: str, param: str | None
) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        with pytest.raises(RequestError, match=complaint) as caught:
            await anext(client.generate(request_))
        assert caught.value.param == param
        assert "\n" not in str(caught.value)
        assert not worker.contexts()

    run(test)


def test_a_limit_beyond_the_context_ends_with_it(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        request = ask([5, 6], max_new_tokens=10**6)
        async with aclosing(client.generate(request)) as events:
            await anext(events)
        assert worker.contexts()[0].max_length == 64

    run(test)


def test_images_are_waited_for_and_counted(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        picture = Image.new("RGB", (40, 40), "red")
        tiles = client._tokenizer.prepare_image(picture)
        request = GenerationRequest(prompt="<|image|>What?", images=[tiles])
        events = client.generate(request, origin=ONE)
        await anext(events)
        (context,) = worker.contexts()
        (image,) = context.images
        worker.answer("one", [5], FULL)
        read = await anext(events)
        assert isinstance(read, PromptRead)
        assert read.image_tokens > 0
        assert read.prompt_tokens == len(read.token_ids) + read.image_tokens
        counted = await client.count_tokens(request.prompt, [tiles.result()])
        assert counted == read.prompt_tokens
        assert image.start_idx == list(read.token_ids).index(
            client._tokenizer.delegate.convert_tokens_to_ids("<|image|>")
        )
        await events.aclose()

    run(test)


def test_tokens_are_counted_of_valid_requests_only(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        assert await client.count_tokens("Hi", []) == len(await client.tokenize("Hi"))
        with pytest.raises(RequestError, match="1 image placeholders, but 0 images"):
            await client.count_tokens("<|image|>", [])

    run(test)


def bytes_to_worker(context: Any) -> int:
    """Returns the bytes that MAX's queue carries."""
    return sum(map(len, msgpack_numpy_oob_encoder()(context)))


@pytest.mark.skipif(
    not SharedPixels.are_possible(), reason="this system has no such memory"
)
def test_pixels_go_to_the_worker_once_for_all_choices(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        tiles = [
            client._tokenizer.prepare_image(Image.new("RGB", (2000, 1500), color))
            for color in ("red", "blue")
        ]
        request = GenerationRequest(
            prompt="<|image|><|image|>What?", images=tiles, choices=5
        )
        events = client.generate(request, origin=ONE)
        await anext(events)
        reading = asyncio.ensure_future(collected(events))
        worker.answer("one", [5], FULL)
        await worker.arrival(5)
        first, *others = worker.contexts()
        sizes = [each.result().pixel_values.nbytes for each in tiles]
        assert bytes_to_worker(first) > sum(sizes)
        decode = msgpack_numpy_oob_decoder(TextAndVisionContext)
        for context in others:
            assert bytes_to_worker(context) < bytes_to_worker(first) - sum(sizes) + 2000
            received = decode(msgpack_numpy_oob_encoder()(context))
            for index, each in enumerate(tiles):
                pixels = image_pixels(received, index)
                assert np.array_equal(pixels, each.result().pixel_values)
            worker.answer(str(context.request_id), [5], FULL)
        await reading
        with pytest.raises(RuntimeError, match="the request has ended"):
            image_pixels(others[0], 0)

    run(test)


@pytest.mark.parametrize("possible", [False, True])
def test_without_memory_to_share_each_choice_has_its_pixels(
    run: Run, monkeypatch: pytest.MonkeyPatch, possible: bool
) -> None:
    def fail(name: str) -> int:
        raise OSError("no memory")

    monkeypatch.setattr(SharedPixels, "are_possible", lambda: possible)
    monkeypatch.setattr("os.memfd_create", fail, raising=False)

    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        tiles = client._tokenizer.prepare_image(Image.new("RGB", (40, 40), "red"))
        request = GenerationRequest(prompt="<|image|>", images=[tiles], choices=2)
        events = client.generate(request, origin=ONE)
        await anext(events)
        reading = asyncio.ensure_future(collected(events))
        worker.answer("one", [5], FULL)
        await worker.arrival(2)
        expected = tiles.result().pixel_values
        for context in worker.contexts():
            assert np.array_equal(image_pixels(context, 0), expected)
        worker.answer("one.1", [5], FULL)
        await reading

    run(test)


def test_an_image_that_cannot_be_used_is_named(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        good = client._tokenizer.prepare_image(Image.new("RGB", (40, 40)))
        bad = client.prepare_image(b"no image")
        request = GenerationRequest(prompt="<|image|><|image|>", images=[good, bad])
        with pytest.raises(ImageError, match="image 2: "):
            await anext(client.generate(request))
        assert not worker.contexts()

    run(test)


def test_a_full_queue_is_an_overload(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        worker.requests.room = 0
        with pytest.raises(EngineOverloadedError):
            await anext(client.generate(ask()))

    run(test)


def test_images_are_loaded_when_the_engine_needs_them(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        def loader(prompt: str, picture: str) -> GenerationRequest:
            images = LateImages(client, picture)
            return GenerationRequest(prompt=prompt, images=images)

        unused = loader("no image", "red")
        with pytest.raises(RequestError, match="1 image"):
            await anext(client.generate(unused))
        assert not unused.images.loaded  # type: ignore[union-attr]
        events = client.generate(loader("<|image|>What?", "red"))
        assert await anext(events) == Accepted()
        await events.aclose()
        with pytest.raises(ImageError):
            await anext(client.generate(loader("<|image|>What?", "no color")))

    run(test)


def test_what_the_scheduler_refuses_is_a_bad_request(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        events = client.generate(ask(), origin=ONE)
        await anext(events)
        worker.refuse("one", "no such\ngrammar")
        with pytest.raises(RequestError, match="no such grammar"):
            await anext(events)

    run(test)


def test_a_dropped_request_is_an_engines_error(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        events = client.generate(ask(), origin=ONE)
        await anext(events)
        worker.drop("one")
        with pytest.raises(EngineError, match="dropped"):
            await anext(events)

    run(test)


@pytest.mark.parametrize("choices", [1, 2])
def test_a_dead_worker_ends_all_requests_and_refuses_others(
    run: Run, choices: int
) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        running = [client.generate(ask(choices=choices)) for _ in range(3)]
        for events in running:
            await anext(events)
        waiting = [asyncio.ensure_future(collected(events)) for events in running]
        await asyncio.sleep(0.01)
        worker.link.fail(EngineUnavailableError("the worker has died", 7))
        for each in waiting:
            with pytest.raises(EngineUnavailableError, match="the worker has died"):
                await each
        with pytest.raises(EngineUnavailableError, match="has died") as caught:
            await anext(client.generate(ask()))
        assert caught.value.retry_after == 7

    run(test)


def test_a_worker_that_dies_while_a_request_is_submitted_ends_it(run: Run) -> None:
    """No report will ever come, and its queue may never take the request."""

    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        worker.requests.is_stuck = True
        events = [client.generate(ask(choices=choices)) for choices in (1, 2)]
        waiting = [asyncio.ensure_future(anext(each)) for each in events]
        await worker.requests.reached.wait()
        worker.link.fail(EngineUnavailableError("the worker has died"))
        for each in waiting:
            with pytest.raises(EngineUnavailableError):
                await each

    run(test)


def test_other_choices_of_a_request_end_with_its_worker(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        worker.requests.room = 1
        events = client.generate(ask(choices=2), origin=ONE)
        await anext(events)
        reading = asyncio.ensure_future(collected(events))
        worker.answer("one", [5])
        await asyncio.sleep(0.01)
        worker.link.fail(EngineUnavailableError("the worker has died"))
        with pytest.raises(EngineUnavailableError):
            await reading

    run(test)


def test_a_request_goes_to_the_worker_that_there_is_after_its_preparation(
    model: tuple[Any, EngineSettings],
) -> None:
    async def main() -> None:
        first, second = StandInWorker(), StandInWorker()
        workers = iter([first.link, second.link])

        class Workers:
            def current(self) -> Any:
                return next(workers)

        events = MaxEngineClient(Workers(), *model).generate(ask(), origin=ONE)
        await anext(events)
        assert not first.contexts()
        assert len(second.contexts()) == 1
        await events.aclose()

    asyncio.run(main())


def test_the_bytes_of_tokens_make_the_text(run: Run) -> None:
    async def test(worker: StandInWorker, client: MaxEngineClient) -> None:
        tokens = await client.tokenize("äß 😊 text")
        parts = [client.token_bytes(token) for token in tokens]
        assert b"".join(parts[1:]).decode() == "äß 😊 text"
        assert parts[0] == b"<|begin_of_text|>"

    run(test)


def test_pieces_have_the_tokens_that_the_server_is_told(
    model: tuple[Any, EngineSettings],
) -> None:
    async def main() -> None:
        worker = StandInWorker()
        client = MaxEngineClient(worker, *model, min_piece_tokens=2)
        events = client.generate(ask(), origin=ONE)
        await anext(events)
        reading = asyncio.ensure_future(collected(events))
        for token in (await client.tokenize("abcde"))[1:]:
            worker.answer("one", [token])
            await asyncio.sleep(0.01)
        worker.answer("one", [5], FULL)
        got = await reading
        pieces = [event for event in got if isinstance(event, Piece)]
        assert "".join(piece.text for piece in pieces).startswith("abcde")
        assert all(len(piece.token_ids) >= 2 for piece in pieces[1:-1])
        assert len(pieces) < 5

    asyncio.run(main())
