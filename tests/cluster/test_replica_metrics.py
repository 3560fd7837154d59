"""A front shows the figures of all replicas together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest

pytest.importorskip("ray", reason="the extra cluster")

from mllama.cluster import replica_metrics
from mllama.cluster.messages import ReplicaFigures
from mllama.cluster.prefix_cache_route import add_prefix_cache_route
from mllama.cluster.replica_metrics import ReplicaMetrics
from mllama.image_cache.stats import ENCODE_SECONDS, ImageCacheStats
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.runtime.engine_stats import EngineStats
from mllama.server.observability.process_memory import ProcessMemory
from mllama.server.observability.shared_stats import SharedStats

from ..server.dialects.fake_engine import FakeEngine
from .local_replicas import LocalCluster, LocalReplica

COUNTS = (1,) * (len(ENCODE_SECONDS) + 1)


def stats_of(misses: int) -> EngineStats:
    cache = ImageCacheStats(100, 40, 4, 1, 10, misses, 2)
    return EngineStats(cache, 20, 5, COUNTS, 10**9)


def figures(name: str, misses: int) -> ReplicaFigures:
    return ReplicaFigures(name, f"node-of-{name}", stats_of(misses))


def values(metrics: ReplicaMetrics) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


def test_figures_are_summed_and_those_of_ended_replicas_stay_counted() -> None:
    number = 2
    metrics = ReplicaMetrics(lambda: number)
    metrics.update([figures("a", 3), figures("b", 4)])
    found = values(metrics)
    assert found["mllama_replicas"] == 2
    assert found["mllama_worker_up"] == 1
    assert found["mllama_image_cache_misses_total"] == 7
    assert found["mllama_image_cache_used_bytes"] == 80
    assert found["mllama_kv_cache_blocks"] == 40
    assert found["mllama_kv_cache_usage_perc"] == 0.25
    assert found["mllama_image_encode_seconds_count"] == 2 * len(COUNTS)
    assert found["mllama_image_encode_seconds_sum"] == 2
    # One ends, another one comes.
    metrics.update([figures("b", 5), figures("c", 1)])
    found = values(metrics)
    assert found["mllama_image_cache_misses_total"] == 3 + 5 + 1
    assert found["mllama_image_cache_entries"] == 8
    # One that only said nothing for a while isn't counted twice.
    metrics.note(figures("a", 4))
    assert values(metrics)["mllama_image_cache_misses_total"] == 4 + 5 + 1
    number = 0
    found = values(metrics)
    assert found["mllama_worker_up"] == 0
    assert found["mllama_kv_cache_blocks"] == 0
    assert found["mllama_image_cache_misses_total"] == 10


def test_replicas_that_have_ended_take_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_metrics, "_ENDED", 3)
    metrics = ReplicaMetrics(lambda: 1)
    for number in range(20):
        metrics.update([figures(f"replica-{number}", 1)])
    assert len(metrics._ended) == 3
    assert values(metrics)["mllama_image_cache_misses_total"] == 20


def test_names_and_labels_are_those_of_a_server() -> None:
    metrics = ReplicaMetrics(lambda: 1)
    verdicts = [ImageVerdict(ImageMode.DIRECT), ImageVerdict(ImageMode.DIRECT)]
    verdicts.append(ImageVerdict(ImageMode.REFUSED, CheckStage.CONTENT, 2))
    metrics.update(
        ReplicaFigures(str(number), "node", stats_of(0), verdict)
        for number, verdict in enumerate(verdicts)
    )
    with SharedStats.temporary() as shared:
        shared.write_verdict(verdicts[0])
        expected = {(family.name, family.type) for family in shared.collect()}
    found = {(family.name, family.type) for family in metrics.collect()}
    assert found == expected | {("mllama_replicas", "gauge")}
    (family,) = [each for each in metrics.collect() if each.name == "mllama_gpu_images"]
    assert {tuple(each.labels.values()): each.value for each in family.samples} == {
        ("direct", "none"): 2,
        ("refused", "content"): 1,
    }
    registry = CollectorRegistry()
    for collector in (metrics, ProcessMemory(lambda: metrics.memory)):
        registry.register(collector)
    assert b"replica" not in generate_latest(registry).replace(b"_replicas", b"")


def test_replicas_are_asked_and_tell_with_their_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_metrics, "_PERIOD_SECONDS", 0.001)
    cluster = LocalCluster(
        [LocalReplica(name, FakeEngine(), stats_of(2)) for name in ("a", "b", "c")]
    )
    handle: Any = cluster.handle
    cluster.server.post(
        "/v1/chat/completions",
        {"model": "served", "messages": [{"role": "user", "content": "Hi"}]},
    )
    assert values(cluster.metrics)["mllama_image_cache_misses_total"] == 2

    async def watch() -> None:
        async with cluster.metrics.watched(handle):
            while values(cluster.metrics)["mllama_image_cache_misses_total"] != 6:
                await asyncio.sleep(0.001)
            assert cluster.metrics.memory.resident == 300
            # One dies, and then Ray knows of none.
            cluster.replicas[1].has_failed = True
            while values(cluster.metrics)["mllama_kv_cache_blocks"] != 40:
                await asyncio.sleep(0.001)
            cluster.handle.replicas.clear()
            await asyncio.sleep(0.01)
            cluster.states.update(0)
            assert values(cluster.metrics)["mllama_kv_cache_blocks"] == 0
            assert values(cluster.metrics)["mllama_image_cache_misses_total"] == 6

    asyncio.run(asyncio.wait_for(watch(), 10))


def test_all_replicas_empty_their_prefix_caches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = LocalCluster([LocalReplica(name, FakeEngine()) for name in "ab"])
    app: FastAPI = cluster.server.app()
    add_prefix_cache_route(app, cluster.handle)
    client = TestClient(app)
    assert client.post("/reset_prefix_cache").text == "Success"
    assert [each.resets for each in cluster.replicas] == [1, 1]
    cluster.replicas[1].has_failed = True
    response = client.post("/reset_prefix_cache")
    assert response.status_code == 503
    message = response.json()["error"]["message"]
    assert message.startswith("the prefix caches of 1 of 2 replicas were not emptied")
    assert "the engine has failed" in caplog.text
