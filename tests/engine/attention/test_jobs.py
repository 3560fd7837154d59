"""Attention maps wait for room in the image cache, and end with the engine."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.engine.attention import jobs
from mllama.engine.attention.jobs import AttentionJob, AttentionJobs
from mllama.errors import EngineError, RequestError
from mllama.image_cache.block_manager import ImageCacheFullError
from mllama.requests.attention import NO_MAPS, AttentionOptions


def job(name: str) -> AttentionJob:
    return AttentionJob(name, [], 1, 2, AttentionOptions())


def test_a_job_that_has_no_room_waits_while_others_run() -> None:
    woken: list[None] = []
    queue = AttentionJobs(lambda: woken.append(None))
    assert not queue
    large, small = queue.submit(job("large")), queue.submit(job("small"))
    assert len(woken) == 2
    assert queue
    full = True

    def compute(context: Any, *_: Any) -> Any:
        if full and context == "large":
            raise ImageCacheFullError(3)
        return NO_MAPS

    queue.run_next(compute)
    assert small.result(0) is NO_MAPS
    queue.run_next(compute)
    assert not large.done()
    full = False
    queue.run_next(compute)
    assert large.result(0) is NO_MAPS
    assert not queue


def test_a_job_waits_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 0.0)
    queue = AttentionJobs(lambda: None)
    maps = queue.submit(job("large"))

    def compute(*_: Any) -> Any:
        raise ImageCacheFullError(3)

    queue.run_next(compute)
    with pytest.raises(EngineError, match="no room in the image cache"):
        maps.result(0)
    assert not queue


def test_an_error_ends_its_job_alone() -> None:
    queue = AttentionJobs(lambda: None)
    first, second = queue.submit(job("wrong")), queue.submit(job("right"))

    def compute(context: Any, *_: Any) -> Any:
        if context == "wrong":
            raise RequestError("wrong", "attention")
        return NO_MAPS

    queue.run_next(compute)
    queue.run_next(compute)
    with pytest.raises(RequestError, match="wrong"):
        first.result(0)
    assert second.result(0) is NO_MAPS


def test_jobs_end_with_the_engine() -> None:
    queue = AttentionJobs(lambda: None)
    maps = queue.submit(job("any"))
    queue.end_all(RuntimeError("closed"))
    with pytest.raises(EngineError, match="the engine stopped"):
        maps.result(0)
    assert not queue
