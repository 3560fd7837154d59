"""A request whose client has gone away isn't answered, whenever it is cancelled."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from max.serve.queue import drain_queue
from max.serve.scheduler.text_generation_scheduler import TokenGenerationScheduler
from max.serve.scheduler.utils import get_cancelled_reqs

from mllama.max_compat import patches
from mllama.runtime import early_cancellations
from mllama.runtime.early_cancellations import cancellable_queues


def request(name: str) -> Any:
    return SimpleNamespace(request_id=name)


def names(requests: Any) -> list[str]:
    return [each.request_id for each in drain_queue(requests)]


def test_a_request_is_not_taken_after_its_cancellation() -> None:
    sent: tuple[SimpleQueue[Any], SimpleQueue[Any]] = SimpleQueue(), SimpleQueue()
    requests, cancellations = cancellable_queues(*sent)
    sent[0].put(request("first"))
    assert names(requests) == ["first"]
    # While the scheduler computes a step.
    for name in ("second", "third", "fourth"):
        sent[0].put(request(name))
    sent[1].put(["second"])
    sent[1].put(["fourth", "first"])
    assert get_cancelled_reqs(cancellations) == ["second", "fourth", "first"]
    assert names(requests) == ["third"]
    with pytest.raises(Empty):
        requests.get_nowait()


def test_only_the_last_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_cancellations, "_MOST_IDS", 2)
    sent: tuple[SimpleQueue[Any], SimpleQueue[Any]] = SimpleQueue(), SimpleQueue()
    requests, cancellations = cancellable_queues(*sent)
    sent[1].put(["one", "two", "three"])
    get_cancelled_reqs(cancellations)
    for name in ("one", "two", "three"):
        sent[0].put(request(name))
    assert names(requests) == ["one"]


def test_maxs_scheduler_takes_the_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(self: Any, requests: Any, cancellations: Any) -> None:
        self.request_queue, self.cancel_queue = requests, cancellations

    monkeypatch.setattr(TokenGenerationScheduler, "__init__", init)
    # Each model that a process loads replaces them.
    for _ in range(2):
        patches.replace_scheduler_queues(cancellable_queues)
    unchecked: Any = TokenGenerationScheduler
    sent: Any = SimpleQueue()
    scheduler = unchecked(sent, SimpleQueue())
    assert scheduler.request_queue._queue is sent
    assert scheduler.request_queue.get_nowait.__module__ == (
        early_cancellations.__name__
    )
    with pytest.raises(Empty):
        scheduler.cancel_queue.get_nowait()
