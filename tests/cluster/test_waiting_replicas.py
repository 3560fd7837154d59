"""Replicas that find no free CPUs are waited for, and that is said."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.cluster import dataset_pool, front, waiting_replicas
from mllama.cluster.dataset_pool import start_pool
from mllama.cluster.front import Front
from mllama.cluster.options import ClusterOptions
from mllama.cluster.serve_app import FrontOptions, server_options
from mllama.cluster.waiting_replicas import WaitingReplicas, unscheduled
from mllama.server.settings import settings_of

from .line_engines import EchoEngine

SAID = (
    "1 of 2 replicas wait for a node with 1 CPUs and 0 GPUs free; the cluster has 0 of "
    "2 CPUs and 0 of 0 GPUs free: end what else runs there, add nodes, or use fewer "
    "--replicas"
)
UNSCHEDULED = (
    "Deployment 'Replica' in application 'mllama' has 1 replicas that have taken more "
    "than 30s to be scheduled. This may be due to waiting for the cluster to grow."
)
INITIALIZING = (
    "Deployment 'Replica' in application 'mllama' has 1 replicas that have taken more "
    "than 30s to initialize.\nThis may be caused by a slow __init__."
)


class BusyRay:
    """A cluster without free CPUs, on which a second actor waits for some."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = asyncio.Event()

    def available_resources(self) -> dict[str, float]:
        # Ray leaves out what there is none of.
        return {"memory": 10.0}

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "memory": 10.0}

    def remote(self, actor: Any) -> Any:
        return self

    def options(self, **options: Any) -> Any:
        return SimpleNamespace(remote=self._start)

    def _start(self, start: Any) -> Any:
        self.started += 1
        has_room = self.started == 1

        async def be_placed() -> None:
            if not has_room:
                await self.ended.wait()

        async def prepare() -> int:
            await self.ended.wait()
            return 4

        return SimpleNamespace(
            be_placed=SimpleNamespace(remote=be_placed),
            prepare=SimpleNamespace(remote=prepare),
        )


def test_a_batch_says_which_replicas_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dataset_pool, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(waiting_replicas, "PATIENCE_SECONDS", 0.05)

    async def run() -> int:
        ray = BusyRay()
        options = ClusterOptions(replicas=2, replica_gpus=0)
        pool = asyncio.ensure_future(start_pool(ray, options, EchoEngine, Path()))
        while not caplog.records:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not pool.done()
        ray.ended.set()
        return (await pool).slots

    assert asyncio.run(asyncio.wait_for(run(), 60)) == 8
    # The other one, which loads the model, has its CPUs.
    assert caplog.messages == [SAID]


def test_a_batch_whose_replicas_have_room_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dataset_pool, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(waiting_replicas, "PATIENCE_SECONDS", 0.0)

    async def run() -> None:
        ray = BusyRay()
        options = ClusterOptions(replicas=1, replica_gpus=0)
        pool = asyncio.ensure_future(start_pool(ray, options, EchoEngine, Path()))
        await asyncio.sleep(0.1)
        ray.ended.set()
        await pool

    asyncio.run(asyncio.wait_for(run(), 60))
    assert caplog.messages == []


def test_it_is_said_rarely(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[tuple[int, int]]:
        said = []
        time = 0.0
        replicas = WaitingReplicas(BusyRay(), ClusterOptions(replicas=2), lambda: time)
        for second in range(1000):
            time = float(second)
            # For a moment, all have room.
            waiting = 0 if second == 300 else 1
            replicas.note(waiting)
            if len(caplog.records) > len(said):
                said.append((second, waiting))
        return said

    assert asyncio.run(run()) == [(5, 1), (605, 1)]


def test_a_front_says_which_replicas_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting_replicas, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(front, "_START_PERIOD_SECONDS", 0.01)
    deployment = SimpleNamespace(
        status="UPDATING", message="", replica_states={"STARTING": 2}
    )
    application = SimpleNamespace(deployments={"Replica": deployment})
    status = SimpleNamespace(applications={"mllama": application})
    monkeypatch.setattr(front.serve, "status", lambda: status)
    settings = settings_of({})

    async def run() -> None:
        monkeypatch.setattr(front, "ray", BusyRay())
        waiting = Front(
            settings,
            server_options(FrontOptions(), settings, {"MLLAMA_API_KEY": "a"}),
            ClusterOptions(replicas=2),
            application="mllama",
            deployment="Replica",
        )
        starting = asyncio.ensure_future(waiting._started())
        await asyncio.sleep(0.1)
        assert caplog.messages == []
        deployment.message = UNSCHEDULED
        while not caplog.records:
            await asyncio.sleep(0.01)
        deployment.replica_states = {"RUNNING": 1, "STARTING": 1}
        await starting
        assert waiting._running() == 1

    asyncio.run(asyncio.wait_for(run(), 60))
    assert caplog.messages == [SAID]


def test_ray_serve_still_says_it_so() -> None:
    from ray.serve._private import deployment_state

    source = Path(deployment_state.__file__).read_text()
    assert re.search(r"has \{len\(pending_allocation\)\} replicas that ", source)
    assert re.search(r"have taken more than \{\w+\}s to be scheduled", source)
    assert unscheduled(UNSCHEDULED) == 1
    assert unscheduled(INITIALIZING) == 0
