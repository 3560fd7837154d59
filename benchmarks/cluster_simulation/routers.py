"""Routers: in which order the replicas are asked to take a request."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol

from benchmarks.cluster_simulation.replica import Replica
from benchmarks.cluster_simulation.workload import Request

Key = Literal["first", "newest"]


class Router(Protocol):
    """Chooses replicas."""

    def update(self, replicas: Sequence[Replica]) -> None:
        """Learns which replicas there are."""
        ...

    def candidates(self, request: Request) -> Iterable[Replica]:
        """Returns replicas for a request; the first that isn't full gets it."""
        ...


class RoundRobin:
    """One replica after the other; a full one is left out."""

    def __init__(self) -> None:
        self._replicas: Sequence[Replica] = []
        self._next = 0

    def update(self, replicas: Sequence[Replica]) -> None:
        """Learns which replicas there are."""
        self._replicas = replicas

    def candidates(self, request: Request) -> Iterable[Replica]:
        """Yields all replicas, from the next one."""
        start = self._next = (self._next + 1) % len(self._replicas)
        return itertools.chain(self._replicas[start:], self._replicas[:start])


class LeastLoaded:
    """The replica that works on the fewest requests, of several a random one.

    It knows all replicas at any time, which no router of several fronts does.
    """

    def __init__(self, seed: int = 0) -> None:
        self._replicas: Sequence[Replica] = []
        self._random = random.Random(seed)

    def update(self, replicas: Sequence[Replica]) -> None:
        """Learns which replicas there are."""
        self._replicas = replicas

    def candidates(self, request: Request) -> Iterable[Replica]:
        """Returns the least loaded replica."""
        ongoing = [replica.ongoing for replica in self._replicas]
        fewest = min(ongoing)
        places = [place for place, each in enumerate(ongoing) if each == fewest]
        return [self._replicas[self._random.choice(places)]]


class PowerOfTwo:
    """The less loaded of two random replicas, Ray Serve's default."""

    def __init__(self, seed: int = 0) -> None:
        self._replicas: Sequence[Replica] = []
        self._random = random.Random(seed)

    def update(self, replicas: Sequence[Replica]) -> None:
        """Learns which replicas there are."""
        self._replicas = replicas

    def candidates(self, request: Request) -> Iterable[Replica]:
        """Returns two replicas."""
        two = self._random.sample(self._replicas, min(2, len(self._replicas)))
        return sorted(two, key=lambda replica: replica.ongoing)


class ConsistentHash:
    """Ray Serve's ``ConsistentHashRouter``.

    Each replica has so many points on a ring.  A key's replica is that of the first
    point after the key's hash, and the next different replicas on the ring are its
    fallbacks.

    Args:
        key: The picture of a request that is its key.
        fallbacks: Replicas that are asked after the first one, in their order.
        virtual_nodes: Points of a replica.
        spread: Keys of a popular picture: as many as its part of the latest requests
            times replicas times this.  A chat has one of them.  0 is one for each
            picture, as the router has it alone.
    """

    def __init__(
        self,
        key: Key = "first",
        fallbacks: int = 2,
        virtual_nodes: int = 100,
        spread: float = 0.0,
    ) -> None:
        self._place: Final = 0 if key == "first" else -1
        self._fallbacks = fallbacks
        self._virtual_nodes = virtual_nodes
        self._spread = spread
        self._popularity = Popularity()
        self._replicas = 0
        self._hashes: list[int] = []
        self._owners: list[Replica] = []
        self._ranked: dict[str, list[Replica]] = {}
        self._keys: dict[int, str] = {}

    def update(self, replicas: Sequence[Replica]) -> None:
        """Builds the ring."""
        points = sorted(
            (ring_hash(f"{replica.number}:{node}"), replica.number, replica)
            for replica in replicas
            for node in range(self._virtual_nodes)
        )
        self._hashes = [point[0] for point in points]
        self._owners = [point[2] for point in points]
        self._replicas = len(replicas)
        self._ranked = {}

    def candidates(self, request: Request) -> Iterable[Replica]:
        """Returns the replica of a request's key and its fallbacks."""
        picture = request.pictures[self._place]
        if not self._spread:
            return self.ranked(str(picture))
        # A request has the same key in all its attempts.
        key = self._keys.get(request.number)
        if key is None:
            part = self._popularity.add(picture)
            keys = max(1, round(part * self._replicas * self._spread))
            place = ring_hash(f"chat {request.chat}") % keys
            key = self._keys[request.number] = f"{picture}-{place}"
        return self.ranked(key)

    def ranked(self, key: str) -> list[Replica]:
        """Returns the replica of a key and its fallbacks."""
        found = self._ranked.get(key)
        if found is None:
            found = self._ranked[key] = self._walk(key)
        return found

    def _walk(self, key: str) -> list[Replica]:
        start = bisect.bisect_right(self._hashes, ring_hash(key))
        found: dict[int, Replica] = {}
        for offset in range(len(self._owners)):
            replica = self._owners[(start + offset) % len(self._owners)]
            found.setdefault(replica.number, replica)
            if len(found) > self._fallbacks:
                break
        return list(found.values())


class Popularity:
    """Which part of the latest requests is about a picture.

    Args:
        window: How many requests are the latest ones.
    """

    def __init__(self, window: int = 10_000) -> None:
        self._latest: deque[int] = deque(maxlen=window)
        self._counts: Counter[int] = Counter()

    def add(self, picture: int) -> float:
        """Adds a request, and returns the part that its picture has."""
        if len(self._latest) == self._latest.maxlen:
            self._counts[self._latest[0]] -= 1
        self._latest.append(picture)
        self._counts[picture] += 1
        # One request alone says little.
        return (self._counts[picture] - 1) / len(self._latest)


def ring_hash(key: str) -> int:
    """Returns a key's place on the ring, of 64 bits."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
