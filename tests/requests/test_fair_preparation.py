"""A client that prepares much doesn't hold up what others have prepared."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mllama.errors import EngineOverloadedError
from mllama.images import preparation
from mllama.images.preparation import prepare_image
from mllama.requests import prompt_tokens
from mllama.requests.format_grammars import FormatGrammars
from mllama.requests.output_format import OutputFormat
from mllama.requests.prompt_tokens import tokenize
from mllama.utils.fair_threads import FairThreads, waiting_as

MANY = 40


class Work:
    """Work that notes whose it was, after the first piece has been let go."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()

    def done_for(self, name: str) -> None:
        self.order.append(name)
        self.has_begun.set()
        assert self.may_go_on.wait(60)


@pytest.fixture
def work() -> Iterator[Work]:
    found = Work()
    yield found
    found.may_go_on.set()


class Formats:
    """Stands for the process that reads grammars, and what checks them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.vocabulary = None

    def read(self, kind: Any, source: str, **options: Any) -> str:
        self._work.done_for(source[0])
        return source

    def check(self, grammar: str, tokens: int) -> None:
        """Accepts any grammar."""


def start_of_grammars(work: Work, monkeypatch: pytest.MonkeyPatch) -> Any:
    formats: Any = Formats(work)
    grammars = FormatGrammars(lambda: formats)
    monkeypatch.setitem(grammars.__dict__, "_reader", formats)
    return lambda name, number: grammars.grammar(
        OutputFormat.grammar(f"{name}{number}", path="guided_grammar")
    )


def start_of_prompts(work: Work, monkeypatch: pytest.MonkeyPatch) -> Any:
    def encode_prompt(text: str) -> list[int]:
        work.done_for(text[0])
        return [1]

    monkeypatch.setattr(prompt_tokens, "_THREADS", 1)
    prompt_tokens._threads.cache_clear()
    tokenizer = SimpleNamespace(
        prompt_encoder=SimpleNamespace(encode_prompt=encode_prompt)
    )
    return lambda name, number: tokenize(name * 3000, tokenizer, 4096)


def start_of_images(work: Work, monkeypatch: pytest.MonkeyPatch) -> Any:
    def process(name: str) -> Callable[[Image.Image], Any]:
        return lambda picture: work.done_for(name)

    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    threads = FairThreads(1, "test")
    monkeypatch.setattr(preparation, "_threads", lambda: threads)

    async def start(name: str, number: int) -> Any:
        image: Any = prepare_image(file.getvalue(), process(name))  # type: ignore[arg-type]
        return await asyncio.wrap_future(image)

    return start


@pytest.fixture(params=[start_of_grammars, start_of_prompts, start_of_images])
def start(
    request: pytest.FixtureRequest, work: Work, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    yield request.param(work, monkeypatch)
    prompt_tokens._threads.cache_clear()


async def begun(start: Any, work: Work) -> list[asyncio.Task[Any]]:
    """Starts one piece of A's work, which holds the thread, and many more."""
    with waiting_as("A"):
        tasks = [asyncio.ensure_future(start("A", n)) for n in range(MANY)]
    await asyncio.to_thread(work.has_begun.wait, 60)
    return tasks


def test_another_client_is_next(start: Any, work: Work) -> None:
    async def main() -> None:
        tasks = await begun(start, work)
        with waiting_as("B"):
            tasks.append(asyncio.ensure_future(start("B", 0)))
        await asyncio.sleep(0)
        work.may_go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert work.order == ["A", "B", *["A"] * (MANY - 1)]


def test_a_client_that_has_left_has_nothing_prepared(start: Any, work: Work) -> None:
    async def main() -> None:
        first, *others = await begun(start, work)
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        work.may_go_on.set()
        await first
        await start("B", 0)

    asyncio.run(main())
    assert work.order == ["A", "B"]


def test_a_wait_has_a_limit_in_time(start: Any, work: Work) -> None:
    async def main() -> None:
        tasks = await begun(start, work)
        with waiting_as("B", 0.01), pytest.raises(EngineOverloadedError):
            await start("B", 0)
        work.may_go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert work.order == ["A"] * MANY
