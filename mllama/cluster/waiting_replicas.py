"""Says that replicas wait for CPUs or GPUs, which others on the cluster have."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mllama.cluster.options import ClusterOptions

logger = logging.getLogger("mllama")

PATIENCE_SECONDS: Final = 5.0
"""How long replicas may wait before something is said: a cluster may be slow."""

_REPEAT_SECONDS: Final = 600.0
"""When it is said again."""

_UNSCHEDULED: Final = re.compile(
    r"has (\d+) replicas that have taken .* to be scheduled"
)
"""What Ray Serve says of a deployment whose replicas have no node yet."""


class WaitingReplicas:
    """Says on stderr, rarely, that replicas wait for a node that has room.

    They are waited for as long as it takes, since a cluster may grow.

    Args:
        ray: The module ``ray``, which is connected.
        cluster: The replicas.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        ray: Any,
        cluster: ClusterOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ray = ray
        self._cluster = cluster
        self._clock = clock
        self._since: float | None = None
        self._said: float | None = None

    def note(self, number: int) -> None:
        """Notes how many wait now.  It may ask the cluster, which takes a while."""
        now = self._clock()
        if not number:
            self._since = None
            return
        if self._since is None:
            self._since = now
        if now - self._since < PATIENCE_SECONDS:
            return
        if self._said is not None and now - self._said < _REPEAT_SECONDS:
            return
        self._said = now
        try:
            free = self._ray.available_resources()
            total = self._ray.cluster_resources()
        except Exception as error:
            logger.warning("%d replicas wait for a node with room (%s)", number, error)
            return
        logger.warning("%s", _text(number, self._cluster, free, total))


def unscheduled(message: str) -> int:
    """Returns how many replicas wait by what Ray Serve says about their deployment.

    It says so after half a minute, unless others load the model meanwhile, of which it
    then speaks.
    """
    found = _UNSCHEDULED.search(message)
    return int(found[1]) if found else 0


def _text(
    number: int,
    cluster: ClusterOptions,
    free: Mapping[str, float],
    total: Mapping[str, float],
) -> str:
    room = " and ".join(
        f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s"
        for kind in ("CPU", "GPU")
    )
    return (
        f"{number} of {cluster.most_replicas} replicas wait for a node with "
        f"{cluster.replica_cpus:g} CPUs and {cluster.replica_gpus or 0:g} GPUs free; "
        f"the cluster has {room} free: end what else runs there, add nodes, or use "
        "fewer --replicas"
    )
