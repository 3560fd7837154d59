"""The simulation of clusters loses nothing, and agrees with what can be computed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cluster_simulation.costs import COSTS, Costs
from benchmarks.cluster_simulation.figures import figures_of
from benchmarks.cluster_simulation.replica import PictureCache, Replica
from benchmarks.cluster_simulation.routers import (
    ConsistentHash,
    LeastLoaded,
    Popularity,
    PowerOfTwo,
    RoundRobin,
    Router,
    ring_hash,
)
from benchmarks.cluster_simulation.simulation import (
    Change,
    Cluster,
    Run,
    Simulation,
    seconds_at,
)
from benchmarks.cluster_simulation.workload import Request, Workload

SIMPLE = Costs(
    encode=10.0, prefill_token=0.1, steps={1: 1.0, 2: 1.5}, max_batch=2, source="none"
)


def run(
    router: Router,
    cluster: Cluster,
    workload: Workload,
    load: float = 0.5,
    *changes: Change,
) -> Run:
    chats = workload.chats(seconds_at(load, cluster, workload), seed=3)
    return Simulation(cluster, router, changes).run(chats, workload.requests)


def question(number: int, picture: int, pause: float, new_tokens: int = 1) -> Request:
    return Request(
        number=number,
        chat=number,
        pictures=(picture,),
        new_pictures=1,
        prompt_tokens=10,
        history_tokens=0,
        new_tokens=new_tokens,
        pause=pause,
    )


def replicas(count: int) -> list[Replica]:
    return [
        Replica(number, SIMPLE, PictureCache(9), 9, lambda request, now: None)
        for number in range(count)
    ]


ROUTERS = [
    RoundRobin,
    LeastLoaded,
    PowerOfTwo,
    ConsistentHash,
    lambda: ConsistentHash("newest", fallbacks=4, spread=5),
]


@pytest.mark.parametrize("router", ROUTERS)
def test_every_request_is_answered_once_whatever_happens(router: type[Router]) -> None:
    workload = Workload(3000, pictures=200, turns=3.0, new_picture=0.4, think=5.0)
    cluster = Cluster(10, COSTS["11b"], cache_pictures=40, max_ongoing=12)
    changes = [Change(0.3, lost=3), Change(0.6, added=4, lost=1)]
    result = run(router(), cluster, workload, 0.6, *changes)
    assert [each.number for each in result.requests] == list(range(3000))
    for each in result.requests:
        assert 0 <= each.arrived < each.first_token <= each.finished
    assert sum(each.losses for each in result.requests) > 0
    assert len(result.replicas) == 14
    for number, replica in enumerate(result.replicas):
        assert len(replica.cache) <= 40
        if number >= 4:
            assert replica.ongoing == 0
    # The four that were lost, the oldest, answered nothing afterwards.
    first, second = result.changed_at
    for each in result.requests:
        assert each.replica > 2 or each.finished <= first
        assert each.replica > 3 or each.finished <= second
        assert each.replica < 10 or each.arrived >= first


def test_a_request_takes_what_its_parts_take() -> None:
    """One picture asked about twice, by hand."""
    cluster = Cluster(1, SIMPLE, cache_pictures=1, max_ongoing=9)
    requests = [
        question(0, 7, pause=0.0, new_tokens=4),
        question(1, 7, pause=5.0, new_tokens=3),
        question(2, 8, pause=100.0),
        question(3, 7, pause=100.0),
    ]
    result = Simulation(cluster, RoundRobin()).run(iter(requests), len(requests))
    one, two, three, four = result.requests
    # 10 s for the picture, 1 s for 10 tokens.
    assert (one.arrived, one.first_token, one.encoded) == (0.0, 11.0, 1)
    # It waits for the first one, and then is read at once: the picture is there.
    assert (two.arrived, two.first_token, two.encoded) == (5.0, 12.0, 0)
    # Then both decode at 1.5 s a step: 2 steps together, and 1 alone.
    assert two.finished == pytest.approx(15.0)
    assert one.finished == pytest.approx(16.0)
    # A cache of one picture has lost the first when it is asked for again.
    assert (three.encoded, four.encoded) == (1, 1)
    figures = figures_of(result)
    assert (figures.hits, figures.encoded, figures.distinct) == (0.25, 3, 2)
    # The sum of all times in the cluster.
    times = sum(each.finished - each.arrived for each in result.requests)
    assert result.request_seconds == pytest.approx(times)


def test_a_prompt_is_read_after_the_step_that_is_under_way() -> None:
    cluster = Cluster(1, SIMPLE, cache_pictures=9, max_ongoing=9)
    requests = [
        question(0, 1, pause=0.0, new_tokens=100),
        question(1, 1, pause=20.5),
    ]
    result = Simulation(cluster, RoundRobin()).run(iter(requests), 2)
    # Steps end at 12, 13, ...: the one after 20.5 at 21, and the prompt takes 1 s.
    assert result.requests[1].first_token == pytest.approx(22.0)


def test_waiting_times_are_those_of_a_queue_that_is_known() -> None:
    """Little's law, and the mean time in an M/M/1 queue: 1 / (mu - lambda)."""
    costs = Costs(0.0, 0.0, {1: 0.01}, max_batch=1, source="none")
    cluster = Cluster(1, costs, cache_pictures=9, max_ongoing=10**9)
    workload = Workload(40_000, pictures=1, prompt_tokens=0, new_tokens=100.0)
    result = run(RoundRobin(), cluster, workload, load=0.6)
    figures = figures_of(result)
    assert figures.used == pytest.approx(0.6, rel=0.03)
    times = np.array([each.finished - each.arrived for each in result.requests])
    assert times.mean() == pytest.approx(1 / (1 - 0.6), rel=0.06)
    arrivals = workload.requests / result.seconds
    present = result.request_seconds / result.seconds
    assert present == pytest.approx(arrivals * times.mean(), rel=1e-6)
    # Its distribution is exponential.
    assert np.quantile(times, 0.99) == pytest.approx(np.log(100) / 0.4, rel=0.1)


def test_pictures_are_drawn_by_zipfs_law() -> None:
    workload = Workload(40_000, pictures=1000)
    drawn = [chat.pictures[0] for chat in workload.chats(lambda novelty: 1.0, 5)]
    counts = np.bincount(drawn, minlength=1000)
    total = (1 / np.arange(1, 1001)).sum()
    for rank in (1, 2, 10):
        expected = 40_000 / rank / total
        assert counts[rank - 1] == pytest.approx(expected, rel=0.1)


def test_novelty_is_how_often_a_picture_is_new() -> None:
    said: list[float] = []

    def note(novelty: float) -> float:
        said.append(novelty)
        return 1.0

    workload = Workload(20_000, pictures=2000)
    drawn = [chat.pictures[0] for chat in workload.chats(note, 5)]
    assert sum(said) == pytest.approx(len(set(drawn)), rel=0.05)


def test_an_added_replica_takes_only_its_part_of_the_keys() -> None:
    ring = ConsistentHash(fallbacks=0)
    several = replicas(21)
    ring.update(several[:20])
    before = [ring.ranked(str(key))[0].number for key in range(5000)]
    ring.update(several)
    after = [ring.ranked(str(key))[0].number for key in range(5000)]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {20}
    assert len(moved) / 5000 == pytest.approx(1 / 21, rel=0.35)
    # Losing it gives them back.
    ring.update(several[:20])
    assert [ring.ranked(str(key))[0].number for key in range(5000)] == before


def test_a_lost_replicas_keys_go_to_their_first_fallbacks() -> None:
    ring = ConsistentHash(fallbacks=2)
    several = replicas(10)
    ring.update(several)
    before = [list(ring.ranked(str(key))) for key in range(500)]
    ring.update(several[1:])
    for key, ranked in enumerate(before):
        assert len({each.number for each in ranked}) == 3
        left = [each for each in ranked if each.number != 0]
        assert ring.ranked(str(key))[: len(left)] == left


def test_hot_pictures_have_several_keys_and_chats_one() -> None:
    ring = ConsistentHash(fallbacks=0, spread=1.0)
    ring.update(replicas(50))
    used = {}
    for number in range(400):
        request = question(number, 0 if number % 2 else number, pause=0.0)
        request.chat = number % 40
        chosen = next(iter(ring.candidates(request)))
        # The attempts of a request are made with one key.
        assert next(iter(ring.candidates(request))) is chosen
        if number % 2 and number >= 200:
            used.setdefault(request.chat, set()).add(chosen.number)
    assert len(set.union(*used.values())) > 8
    assert all(len(each) <= 3 for each in used.values())


def test_popularity_is_that_of_the_latest_requests() -> None:
    popularity = Popularity(window=4)
    assert [popularity.add(picture) for picture in (1, 1, 2, 1)] == [0, 0.5, 0, 0.5]
    assert [popularity.add(picture) for picture in (3, 3, 3, 1)] == [
        0,
        0.25,
        0.5,
        0,
    ]


def test_pictures_of_running_requests_stay() -> None:
    cache = PictureCache(3)
    assert cache.pin((1, 2)) == 2
    assert cache.pin((2, 3)) == 1
    assert cache.pin((4,)) is None
    cache.unpin((1, 2))
    assert cache.pin((4,)) == 1
    assert 1 not in cache
    assert 2 in cache


def test_a_full_replica_sends_requests_to_its_fallback() -> None:
    cluster = Cluster(4, SIMPLE, cache_pictures=9, max_ongoing=2)
    requests = [question(number, 5, pause=0.0) for number in range(5)]
    ring = ConsistentHash(fallbacks=1)
    result = Simulation(cluster, ring).run(iter(requests), 5)
    first, second = (each.number for each in ring.ranked("5"))
    assert [each.replica for each in result.requests[:4]] == [first] * 2 + [second] * 2
    # The fifth tries again until a place is free.
    last = result.requests[4]
    assert last.replica in (first, second)
    assert last.refusals > 4
    assert last.first_token >= min(each.finished for each in result.requests)


def test_hashing_encodes_each_picture_once_where_round_robin_does_not() -> None:
    workload = Workload(4000, pictures=300)
    cluster = Cluster(10, COSTS["demo"], cache_pictures=100, max_ongoing=10)
    hashed = figures_of(run(ConsistentHash(fallbacks=4), cluster, workload))
    turns = figures_of(run(RoundRobin(), cluster, workload))
    assert hashed.encoded_per_distinct < 1.3
    assert turns.encoded_per_distinct > 3
    shared = replace(cluster, shares_cache=True, cache_pictures=300)
    assert figures_of(run(LeastLoaded(), shared, workload)).encoded_per_distinct == 1


def test_the_same_seed_is_the_same_run() -> None:
    workload = Workload(500, pictures=50)
    cluster = Cluster(5, COSTS["11b"], cache_pictures=20, max_ongoing=12)
    first, second = (run(ConsistentHash(), cluster, workload) for _ in range(2))
    assert first.requests == second.requests


def test_the_ring_is_ray_serves() -> None:
    """The same order of replicas as its router's, given the same hashes."""
    module = pytest.importorskip("ray.serve.experimental.consistent_hash_router")
    several = replicas(12)
    ring = ConsistentHash(fallbacks=3, virtual_nodes=20)
    ring.update(several)
    router = object.__new__(module.ConsistentHashRouter)
    router._num_fallback_replicas = 3
    router._replica_set_snapshot = frozenset(range(12))
    points = sorted(
        (ring_hash(f"{each.number}:{node}"), each.number)
        for each in several
        for node in range(20)
    )
    router._ring_hashes = [point[0] for point in points]
    router._ring_replicas = [point[1] for point in points]
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(module, "_hash_bytes", lambda key: ring_hash(key.decode()))
        for key in map(str, range(300)):
            ranked = [each.number for each in ring.ranked(key)]
            assert router._lookup_ranked_replicas(key) == ranked
    assert module.DEFAULT_NUM_VIRTUAL_NODES == 100
    assert module.DEFAULT_NUM_FALLBACK_REPLICAS == 2


def test_tables_are_printed() -> None:
    command = [sys.executable, "-m", "benchmarks.cluster_simulation"]
    ended = subprocess.run(
        [*command, "--requests", "1000", "--only", "keys", "--costs", "demo"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "| 10 % | first picture |" in ended.stdout
    wrong = subprocess.run(
        [*command, "--only", "nothing"], capture_output=True, text=True, timeout=120
    )
    assert wrong.returncode == 2
    assert "--only has 'nothing'; it can have routers," in wrong.stderr
