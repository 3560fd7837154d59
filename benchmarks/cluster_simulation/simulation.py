"""The events of a cluster: requests arrive and are answered, replicas come and go."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.cluster_simulation.costs import Costs
from benchmarks.cluster_simulation.replica import IDLE, PictureCache, Replica
from benchmarks.cluster_simulation.routers import Router
from benchmarks.cluster_simulation.workload import Request, RequestSeconds, Workload

FIRST_PAUSE: Final = 0.025
LONGEST_PAUSE: Final = 0.5
"""Pauses of Ray Serve's router while all candidates are full, each twice the last."""

ROUTING_TASKS: Final = 50
"""Requests that a router of Ray Serve tries to place at a time; others wait for it."""


@dataclass(frozen=True)
class Change:
    """Replicas that are added or lost.

    Attributes:
        at: When, as a part of the requests that have arrived.
        added: New ones, with empty caches.
        lost: Ones that die with what they work on, the oldest first.
    """

    at: float
    added: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Cluster:
    """What answers.

    Attributes:
        replicas: Number of replicas.
        costs: What their work takes.
        cache_pictures: Pictures that each image cache holds.
        max_ongoing: Requests that a replica takes at a time.
        prefixes: Chats whose tokens each KV cache holds.
        fronts: Routers; each tries to place so many requests at a time.
        detection: Seconds until a lost replica's requests are asked again.
        shares_cache: Whether a picture that one replica encodes is in all caches: what
            no cluster has, and the best that routing could come near.
    """

    replicas: int
    costs: Costs
    cache_pictures: int
    max_ongoing: int
    prefixes: int = 32
    fronts: int = 1
    detection: float = 1.0
    shares_cache: bool = False


@dataclass
class Run:
    """What happened.

    Attributes:
        requests: All requests, by number.
        replicas: All replicas, the lost ones included.
        seconds: The whole time.
        request_seconds: The sum of all requests' times in the cluster, from its events.
        changed_at: The times of the changes.
    """

    requests: list[Request]
    replicas: list[Replica]
    seconds: float = 0.0
    request_seconds: float = 0.0
    changed_at: Sequence[float] = ()


def seconds_at(
    load: float,
    cluster: Cluster,
    workload: Workload,
    encoded: float | None = None,
) -> RequestSeconds:
    """Returns what gives the mean seconds between two requests at a load.

    A load of 1 is what the replicas could do at most if all were always busy with full
    batches, and each picture was encoded once.  The load is the same at any time: while
    the caches fill, requests come more slowly.

    Args:
        load: The load.
        cluster: What answers.
        workload: What is asked.
        encoded: Pictures that are encoded for a request, on average, where that is
            known; None is as many as it brings new ones.
    """
    costs = cluster.costs
    service = costs.service(workload.prompt_tokens, workload.new_tokens)

    def seconds(novelty: float) -> float:
        work = service + (novelty if encoded is None else encoded) * costs.encode
        return work / (load * cluster.replicas)

    return seconds


class Simulation:
    """Runs requests through a cluster.

    Args:
        cluster: What answers.
        router: Where requests go.
        changes: Replicas that come and go.
    """

    def __init__(
        self, cluster: Cluster, router: Router, changes: Sequence[Change] = ()
    ) -> None:
        self._cluster = cluster
        self._router = router
        self._changes = sorted(changes, key=lambda change: change.at)
        self._events: list[tuple[float, int, Any, Any]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._alive: list[Replica] = []
        self._shared = PictureCache(cluster.cache_pictures)
        self._run = Run([], [])
        self._in_system = 0
        self._placing = 0
        self._unplaced: deque[Request] = deque()
        self._chats: Iterator[Request] = iter(())

    def run(self, chats: Iterator[Request], requests: int) -> Run:
        """Returns what happens until all requests are answered.

        Args:
            chats: The first turn of each chat.
            requests: The number of all turns.
        """
        self._chats = chats
        thresholds = deque(change.at * requests for change in self._changes)
        pending = deque(self._changes)
        changed_at: list[float] = []
        self._add(self._cluster.replicas)
        self._next_chat()
        while self._events:
            time, _, act, subject = heapq.heappop(self._events)
            if act is _advance and subject.next_event != time:
                continue  # It was at something else since.
            self._run.request_seconds += self._in_system * (time - self._now)
            self._now = time
            if act is _advance:
                subject.advance(time)
                self._schedule(subject)
            else:
                act(subject)
            while pending and len(self._run.requests) >= thresholds[0]:
                thresholds.popleft()
                self._change(pending.popleft())
                changed_at.append(self._now)
        self._run.seconds = self._now
        self._run.changed_at = changed_at
        self._run.requests.sort(key=lambda request: request.number)
        return self._run

    def _at(self, time: float, act: Any, subject: Any) -> None:
        heapq.heappush(self._events, (time, next(self._order), act, subject))

    def _schedule(self, replica: Replica) -> None:
        if replica.next_event != IDLE:
            self._at(replica.next_event, _advance, replica)

    def _next_chat(self) -> None:
        chat = next(self._chats, None)
        if chat is not None:
            self._at(self._now + chat.pause, self._chat_arrives, chat)

    def _chat_arrives(self, request: Request) -> None:
        self._arrive(request)
        self._next_chat()

    def _arrive(self, request: Request) -> None:
        request.arrived = self._now
        self._run.requests.append(request)
        self._in_system += 1
        self._place(request)

    def _place(self, request: Request) -> None:
        """Routes a request, once the router has a task for it."""
        if self._placing >= self._tasks():
            self._unplaced.append(request)
            return
        self._placing += 1
        self._try((request, FIRST_PAUSE))

    def _tasks(self) -> int:
        return self._cluster.fronts * min(ROUTING_TASKS, 2 * len(self._alive))

    def _try(self, attempt: tuple[Request, float]) -> None:
        request, pause = attempt
        for replica in self._router.candidates(request):
            if replica.ongoing < self._cluster.max_ongoing:
                planned = replica.next_event
                replica.take(request, self._now)
                if replica.next_event != planned:
                    self._schedule(replica)
                self._placing -= 1
                if self._unplaced:
                    self._place(self._unplaced.popleft())
                return
            request.refusals += 1
        self._at(self._now + pause, self._try, (request, min(2 * pause, LONGEST_PAUSE)))

    def _finish(self, request: Request, now: float) -> None:
        request.finished = now
        self._in_system -= 1
        if request.next is not None:
            self._at(now + request.next.pause, self._arrive, request.next)

    def _change(self, change: Change) -> None:
        for replica in self._alive[: change.lost]:
            for request in replica.kill():
                request.losses += 1
                self._at(self._now + self._cluster.detection, self._place, request)
        self._alive = self._alive[change.lost :]
        self._add(change.added)

    def _add(self, count: int) -> None:
        for _ in range(count):
            replica = Replica(
                len(self._run.replicas),
                self._cluster.costs,
                self._shared
                if self._cluster.shares_cache
                else PictureCache(self._cluster.cache_pictures),
                self._cluster.prefixes,
                self._finish,
            )
            self._run.replicas.append(replica)
            self._alive.append(replica)
        self._router.update(list(self._alive))


def _advance(replica: Replica) -> None:
    """Marks the event of a replica."""
    raise AssertionError(replica)
