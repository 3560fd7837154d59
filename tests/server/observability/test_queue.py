"""What waits for a slot, and for how long, is in the metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mllama.server.observability.metrics import REGISTRY
from mllama.server.observed_engine import ObservedEngineClient
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import RequestQueue
from tests.server.batches.running import batch_server, requests
from tests.server.scheduling.controlled_engine import (
    Asker,
    ControlledEngine,
    run,
    settle,
)


def value(name: str) -> float:
    sample = REGISTRY.get_sample_value(f"mllama_{name}")
    assert sample is not None
    return sample


def test_lines_of_batches_are_counted_and_nobody_waits_for_them(tmp_path: Path) -> None:
    names = ("generation_tokens_total", "prompt_tokens_total")
    waits = ("request_queue_time_seconds_count", "time_to_first_token_seconds_count")

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            before = [value(name) for name in names]
            waited = [value(name) for name in waits]
            batch = await server.ended(await server.start(requests(5)))
            assert batch.request_counts.completed == 5
            assert all(value(n) > old for n, old in zip(names, before, strict=True))
            assert [value(name) for name in waits] == waited
            assert counts() == (0, 0)

    asyncio.run(asyncio.wait_for(test(), 60))


def counts() -> tuple[float, float]:
    """How many requests run, and how many wait."""
    return value("num_requests_running"), value("num_requests_waiting")


def test_requests_wait_until_they_have_a_slot() -> None:
    async def test() -> None:
        engine = ControlledEngine()
        queue = RequestQueue(1, limit=100, prepared_ahead=1)
        client = ObservedEngineClient(QueuedEngineClient(engine, queue))
        waits = value("request_queue_time_seconds_count")
        seconds = value("request_queue_time_seconds_sum")
        askers = []
        for name in ("one", "two", "three"):
            askers.append(Asker(client, name))
            await settle()
        assert counts() == (1, 2)
        assert value("request_queue_time_seconds_count") - waits == 1
        await asyncio.sleep(0.05)
        engine.end("one")
        await settle()
        assert counts() == (1, 1)
        assert value("request_queue_time_seconds_sum") - seconds >= 0.05
        # One that gives up has waited too.
        await askers[2].leave()
        await settle()
        assert counts() == (1, 0)
        engine.end("two")
        await settle()
        assert counts() == (0, 0)
        assert value("request_queue_time_seconds_count") - waits == 3

    run(test())
