"""How a model is spread over a cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from mllama.errors import MllamaError
from mllama.launch.devices import count_gpus
from mllama.launch.options import EngineOptions

DEFAULT_FALLBACKS: Final = 2
"""Further replicas that may answer about a picture, if its own is busy."""

_QUEUED_PER_SLOT: Final = 2
"""Requests that a replica takes for each place of its batch.

Those beyond the batch are prepared while it runs, so that no place stays empty, and
stay where their picture is.
"""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """How a model is spread over a cluster.

    Attributes:
        replicas: Number of replicas, or the fewest if there is a maximum.
        max_replicas: The most that are started under load; None starts no more.
        replica_cpus: CPUs that each replica reserves.
        replica_gpus: GPUs that each replica reserves and runs on; None is as many as
            the devices are.
        max_ongoing_requests: Requests that a replica takes at a time; None is twice its
            batch.
        fallback_replicas: Further replicas that may answer about a picture, if its own
            has as many requests as it takes.
        drain_seconds: How long a replica that is to end may go on with its requests.

    Raises:
        MllamaError: If a value is out of range.
    """

    replicas: int = 1
    max_replicas: int | None = None
    replica_cpus: float = 1
    replica_gpus: float | None = None
    max_ongoing_requests: int | None = None
    fallback_replicas: int = DEFAULT_FALLBACKS
    drain_seconds: float = 30

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise MllamaError(f"--replicas must be at least 1, not {self.replicas}")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise MllamaError(
                f"--max-replicas must be at least --replicas {self.replicas}, not "
                f"{self.max_replicas}"
            )
        if self.max_ongoing_requests is not None and self.max_ongoing_requests < 1:
            raise MllamaError(
                "--max-ongoing-requests must be at least 1, not "
                f"{self.max_ongoing_requests}"
            )
        for name in ("replica_cpus", "replica_gpus", "fallback_replicas"):
            value = getattr(self, name)
            if value is not None and value < 0:
                flag = f"--{name.replace('_', '-')}"
                raise MllamaError(f"{flag} must be at least 0, not {value:g}")

    @property
    def most_replicas(self) -> int:
        """Returns the most replicas that there may be."""
        return self.max_replicas or self.replicas

    def ongoing_requests(self, batch_size: int) -> int:
        """Returns how many requests a replica takes at a time.

        Args:
            batch_size: Answers that it generates at a time.
        """
        return self.max_ongoing_requests or _QUEUED_PER_SLOT * batch_size

    def for_engine(self, engine: EngineOptions) -> tuple[ClusterOptions, EngineOptions]:
        """Returns options in which the GPUs reserved and the devices used agree.

        Ray shows a replica the GPUs that are its own, as the first ones.

        Args:
            engine: The engine's options.

        Raises:
            MllamaError: If the two contradict each other.
        """
        gpus = self.replica_gpus or 0
        devices = "".join((engine.devices or "").lower().split())
        if not devices:
            number = int(gpus)
            devices = (
                "cpu"
                if not gpus
                else "gpu"
                if number < 2
                else ",".join(f"gpu-{index}" for index in range(number))
            )
        elif devices != "gpu:all" or not gpus:
            used = 0 if devices == "cpu" else count_gpus(devices)
            # A part of a GPU is one that is shared.
            if self.replica_gpus is not None and math.ceil(gpus) != used:
                raise MllamaError(
                    f"--devices {engine.devices} and --replica-gpus {gpus:g} "
                    "contradict each other"
                )
            gpus = used if self.replica_gpus is None else gpus
        return replace(self, replica_gpus=gpus), replace(engine, devices=devices)
