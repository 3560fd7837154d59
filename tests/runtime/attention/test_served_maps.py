"""A server's worker makes maps after the steps that ask for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.pipelines.context import (
    GenerationStatus,
    TextContext,
    TextGenerationOutput,
    TokenBuffer,
)
from max.pipelines.kv_cache import InsufficientBlocksError
from max.pipelines.modeling.types import RequestID

from mllama.errors import EngineError, RequestError
from mllama.image_cache.block_manager import ImageCacheFullError
from mllama.max_model.sampling_context import PROMPT_LENGTH
from mllama.requests.attention import NO_MAPS, AttentionOptions
from mllama.requests.map_exchange import hold_images, read_maps, set_task
from mllama.requests.map_task import MapTask
from mllama.runtime.attention.served_maps import HOLD_SECONDS, ServedMaps

ACTIVE, END = GenerationStatus.ACTIVE, GenerationStatus.END_OF_SEQUENCE
FAILED = GenerationStatus.CANCELLED


class Images:
    """An image cache that knows who pins something."""

    def __init__(self) -> None:
        self.pinned: set[str] = set()

    def reserve_as(self, request_id: Any, context: Any) -> None:
        self.pinned.add(str(request_id))

    def release(self, request_id: Any) -> None:
        self.pinned.discard(str(request_id))


class Mapper:
    """Computes no maps, or fails."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.contexts: list[Any] = []

    def compute(self, context: Any, *task: Any) -> Any:
        self.contexts.append(context)
        if self.error is not None:
            raise self.error
        return NO_MAPS


class Worker:
    """A worker whose steps compute nothing."""

    def __init__(self, directory: Path) -> None:
        self.images, self.mapper, self.now = Images(), Mapper(), 0.0
        self.directory = directory
        maps = ServedMaps(
            self.mapper,
            self.images,  # type: ignore[arg-type]
            directory,
            lambda: self.now,
        )
        self._execute = maps.after(lambda inputs: inputs.outputs)
        self.alloc = maps.before(self._alloc)
        self.room = 10

    def _alloc(self, context: Any) -> str:
        if len(self.images.pinned) >= self.room:
            raise InsufficientBlocksError("no room") from ImageCacheFullError(1)
        return f"blocks of {context.request_id}"

    def step(self, context: Any, status: GenerationStatus = END) -> None:
        output = TextGenerationOutput(
            request_id=context.request_id, tokens=[7], final_status=status
        )
        outputs = {context.request_id: output}
        self._execute(SimpleNamespace(flat_batch=[context], outputs=outputs))

    def answer(self, name: str, status: GenerationStatus = END) -> None:
        """Computes the last step of an answer whose maps will be asked for."""
        context = new_context(name)
        hold_images(context)
        self.step(context, status)

    def ask_for_maps(self, name: str, *, status: GenerationStatus = END) -> None:
        """Computes the step of a request for the maps of an answer."""
        context = new_context(f"maps of {name}")
        set_task(context, MapTask([], 1, 2, AttentionOptions()), name)
        context.tokens.advance_with_token(9)
        self.step(context, status)


def new_context(name: str) -> Any:
    tokens = np.array([1, 2, 3], np.int64)
    context = TextContext(
        request_id=RequestID(name), max_length=4, tokens=TokenBuffer(tokens)
    )
    context.extra_model_args = {PROMPT_LENGTH: np.array([3])}  # type: ignore[attr-defined]
    return context


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def test_maps_are_of_the_tokens_that_were_sent(worker: Worker) -> None:
    file = worker.directory / "maps of one"
    file.touch()
    worker.ask_for_maps("one")
    assert read_maps(file).heads == []
    (context,) = worker.mapper.contexts
    assert context.tokens.all.tolist() == [1, 2, 3]
    # Releasing it must not release the request that the scheduler knows.
    assert str(context.request_id) != "maps of one"


@pytest.mark.parametrize("status", [ACTIVE, FAILED])
def test_a_step_that_is_not_the_last_or_failed_makes_none(
    worker: Worker, status: GenerationStatus
) -> None:
    (worker.directory / "maps of one").touch()
    worker.ask_for_maps("one", status=status)
    assert not worker.mapper.contexts


def test_maps_that_nobody_waits_for_are_not_computed(worker: Worker) -> None:
    worker.ask_for_maps("one")
    assert not worker.mapper.contexts
    assert not list(worker.directory.iterdir())


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RequestError("too large"), RequestError, "too large"),
        (ValueError("a bug"), EngineError, "the log says why"),
    ],
)
def test_an_error_goes_to_the_one_who_asks(
    worker: Worker, error: Exception, kind: type[Exception], message: str
) -> None:
    file = worker.directory / "maps of one"
    file.touch()
    worker.mapper.error = error
    worker.ask_for_maps("one")
    with pytest.raises(kind, match=message):
        read_maps(file)


def test_images_are_held_until_the_maps_are_made(worker: Worker) -> None:
    worker.answer("one", ACTIVE)
    assert not worker.images.pinned
    worker.answer("one")
    assert worker.images.pinned == {"one.held"}
    worker.ask_for_maps("one")
    assert not worker.images.pinned


def test_images_are_held_for_a_limited_time(worker: Worker) -> None:
    worker.answer("one")
    worker.now = HOLD_SECONDS / 2
    worker.answer("two")
    worker.now = HOLD_SECONDS
    assert worker.alloc(new_context("three")) == "blocks of three"
    assert worker.images.pinned == {"two.held"}


def test_held_images_keep_no_request_from_running(worker: Worker) -> None:
    worker.answer("one")
    worker.answer("two")
    worker.room = 2
    assert worker.alloc(new_context("three")) == "blocks of three"
    assert worker.images.pinned == {"two.held"}
    worker.room = 0
    with pytest.raises(InsufficientBlocksError):
        worker.alloc(new_context("four"))
    assert not worker.images.pinned


def test_a_request_that_waits_for_something_else_takes_no_held_images(
    worker: Worker,
) -> None:
    def full(context: Any) -> None:
        raise InsufficientBlocksError("this step prefills enough requests")

    worker.answer("one")
    maps = ServedMaps(worker.mapper, worker.images, worker.directory)  # type: ignore[arg-type]
    with pytest.raises(InsufficientBlocksError):
        maps.before(full)(new_context("two"))
    assert worker.images.pinned == {"one.held"}
