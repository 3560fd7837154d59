"""Garbage collections after the heap is frozen."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mllama.utils import garbage
from mllama.utils.garbage import collect_new_garbage, freeze_heap


@pytest.fixture
def large_heap(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A heap to freeze, which is not frozen afterwards."""
    monkeypatch.setattr(garbage, "_is_heap_frozen", False)
    yield [[] for _ in range(1_000_000)]
    gc.unfreeze()


def test_garbage_is_collected_after_the_heap_is_frozen(large_heap: list[Any]) -> None:
    """What is frozen doesn't count as what the last full collection has left."""
    freeze_heap()
    full = gc.get_stats()[2]["collections"]
    after: list[Any] = [[] for _ in range(100_000)]
    assert gc.get_stats()[2]["collections"] > full
    assert (len(large_heap), len(after)) == (1_000_000, 100_000)


def test_collecting_new_garbage_does_not_walk_through_what_is_frozen(
    large_heap: list[Any],
) -> None:
    freeze_heap()
    collecting = min(cpu_seconds(collect_new_garbage) for _ in range(5))
    assert collecting < cpu_seconds(gc.get_freeze_count) / 5


def test_new_garbage_is_collected(large_heap: list[Any]) -> None:
    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            freed.append(True)

    freed: list[bool] = []
    gc.disable()
    try:
        Garbage()
        collect_new_garbage()
        assert not freed
        freeze_heap()
        assert freed
        Garbage()
        collect_new_garbage()
        assert len(freed) == 2
    finally:
        gc.enable()


def cpu_seconds(function: Callable[[], Any]) -> float:
    began = time.thread_time()
    function()
    return time.thread_time() - began
