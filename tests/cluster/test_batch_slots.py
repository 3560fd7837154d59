"""Batches on a cluster use the free places of the replicas that run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama.cluster.batch_slots import ReplicaSlots
from mllama.cluster.front import Front
from mllama.cluster.messages import ServedModel
from mllama.cluster.options import ClusterOptions
from mllama.cluster.replica_states import ReplicaStates
from mllama.cluster.serve_app import FrontOptions, server_options
from mllama.server.batches.options import BatchOptions
from mllama.server.capabilities import ServerCapabilities
from mllama.server.scheduling.request_queue import RequestQueue
from mllama.server.settings import settings_of
from tests.server.batches.running import BatchServer, batch_server, requests
from tests.server.dialects.fake_engine import FakeEngine

BATCH_SIZE = 8
MOST_REPLICAS = 4
IN_FRONT = 64
"""Requests that the front lets through: twice the batch of each replica."""


class Cluster:
    """Replicas of which some run, and the answers that they are asked for."""

    def __init__(self) -> None:
        self.states = ReplicaStates(lambda: 1)
        self.states.update(1)
        self.engine = FakeEngine("Hello! " * 40)
        self.engine.wait = lambda: asyncio.sleep(0.01)

    def state(self, queue: RequestQueue) -> ReplicaSlots:
        return ReplicaSlots(queue, self.states, BATCH_SIZE, MOST_REPLICAS)

    async def settled(self, running: int) -> None:
        """Waits until so many answers run, and no more for a while."""
        still, is_reached = 0, False
        while still < 20 or not is_reached:
            await asyncio.sleep(0.01)
            is_reached |= self.engine.running == running
            still = 0 if self.engine.running > running else still + 1


async def ask(server: BatchServer) -> None:
    await server.client.chat.completions.create(
        model="", messages=[{"role": "user", "content": "Hi"}]
    )


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def test_a_batch_fills_the_replicas_that_run(tmp_path: Path) -> None:
    cluster = Cluster()

    async def test() -> None:
        async with batch_server(
            tmp_path, cluster.engine, slots=IN_FRONT, state_of=cluster.state
        ) as server:
            await server.start(requests(200))
            # One more than there are places, which has Ray Serve start a replica.
            await cluster.settled(BATCH_SIZE + 1)
            cluster.states.update(3)
            await cluster.settled(3 * (BATCH_SIZE + 1))
            cluster.states.update(2)
            await cluster.settled(2 * (BATCH_SIZE + 1))

    run(test())


def test_places_that_clients_need_are_taken_from_batches(tmp_path: Path) -> None:
    cluster = Cluster()

    async def test() -> None:
        async with batch_server(
            tmp_path, cluster.engine, slots=IN_FRONT, state_of=cluster.state
        ) as server:
            batch = await server.start(requests(20))
            await cluster.settled(BATCH_SIZE + 1)
            clients = [asyncio.ensure_future(ask(server)) for _ in range(3)]
            # None of the three waits in a replica behind eight lines.
            await cluster.settled(BATCH_SIZE)
            assert not any(client.done() for client in clients)
            await asyncio.gather(*clients)
            found = await server.ended(batch)
            assert found.request_counts.completed == 20

    run(test())


def test_the_front_of_a_cluster_has_these_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Describe:
        async def remote(self) -> ServedModel:
            return ServedModel(
                capabilities=ServerCapabilities(model_name="served", vocabulary=1),
                token_bytes=[b"a"],
                batch_size=BATCH_SIZE,
            )

    class Handle:
        describe = Describe()

        def options(self, **options: Any) -> Handle:
            return self

    async def started(front: Front) -> None:
        pass

    monkeypatch.setattr(Front, "_started", started)
    settings = settings_of({})
    options = replace(
        server_options(FrontOptions(), settings, {}),
        batches=BatchOptions(directory=tmp_path),
    )

    async def test() -> None:
        front = Front(
            settings,
            options,
            ClusterOptions(replicas=1, max_replicas=MOST_REPLICAS),
            application="mllama",
            deployment="Replica",
        )
        await front.connect(Handle())  # type: ignore[arg-type]
        assert front._batches is not None
        worker = front._batches.worker
        slots = worker._slots
        assert slots.most_slots == MOST_REPLICAS * (BATCH_SIZE + 1)
        front._states.update(2)
        assert slots._queue.slots == 2 * (BATCH_SIZE + 1)
        worker._stores.close()

    run(test())
