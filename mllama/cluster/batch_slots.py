"""What batches may use of a cluster: the free places of the replicas that run."""

from __future__ import annotations

from typing import Final

from mllama.cluster.replica_states import ReplicaStates
from mllama.server.batches.spare_slots import BATCHES
from mllama.server.clients import ClientId
from mllama.server.scheduling.request_queue import RequestQueue

_PLACES_PER_EXTRA_LINE: Final = 8
"""For so many places of a replica one more line is begun, and one at least."""


class ReplicaSlots:
    """The front's queue, as batches see it.

    The queue lets through what all replicas that there may ever be take, with what
    waits in them.  A batch fills only the places of those that run, or requests of
    clients would wait in a replica behind its lines.

    While it has the replicas for itself, it begins a few more lines than there are
    places: the next one is prepared when a place gets free, and Ray Serve, which starts
    another replica for more requests than places, sees that there is work for it.

    Args:
        queue: The queue.
        states: The replicas that run.
        batch_size: Places of each: answers that it generates at a time.
        most_replicas: How many there may be.
    """

    def __init__(
        self,
        queue: RequestQueue,
        states: ReplicaStates,
        batch_size: int,
        most_replicas: int,
    ) -> None:
        self._queue = queue
        self._states = states
        self._batch_size = batch_size
        self._most_replicas = most_replicas

    @property
    def slots(self) -> int:
        """Returns how many answers batches and clients may have at a time, now."""
        has_clients = self.waiting or self.running > self.held_by(BATCHES)
        extra = 0 if has_clients else self._extra
        return self._states.number * (self._batch_size + extra)

    @property
    def most_slots(self) -> int:
        """Returns how many that may ever be."""
        return self._most_replicas * (self._batch_size + self._extra)

    @property
    def _extra(self) -> int:
        return max(1, self._batch_size // _PLACES_PER_EXTRA_LINE)

    @property
    def running(self) -> int:
        """Returns how many answers have begun, those of batches included."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        """Returns how many clients' requests have not begun."""
        return self._queue.waiting

    def held_by(self, client: ClientId) -> int:
        """Returns how many answers of a client have begun."""
        return self._queue.held_by(client)
