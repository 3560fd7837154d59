"""Requests that are cancelled before MAX's scheduler has them.

The scheduler takes requests from one queue before a step, and cancellations from
another one after it.  It forgets the cancellation of a request that it hasn't taken
yet, and would answer that request to the end for nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

_MOST_IDS: Final = 100_000
"""Cancelled requests that are remembered; a queue never holds so many."""


class CancellableRequests:
    """A queue of requests without those that were cancelled, and that of cancellations.

    Args:
        requests: MAX's queue of requests, from which ``get_nowait`` takes.
        cancellations: MAX's queue of lists of ids.
    """

    def __init__(self, requests: Any, cancellations: Any) -> None:
        self.requests = _Requests(self, requests)
        self.cancellations = _Cancellations(self, cancellations)
        # An id is never used again, so that it may stay after its request is over.
        self._ids: OrderedDict[Any, None] = OrderedDict()

    def add(self, request_id: Any) -> None:
        """Notes that a request was cancelled."""
        self._ids[request_id] = None
        if len(self._ids) > _MOST_IDS:
            self._ids.popitem(last=False)

    def has(self, request_id: Any) -> bool:
        """Returns True if a request was cancelled."""
        return request_id in self._ids


class _Requests:
    def __init__(self, cancelled: CancellableRequests, queue: Any) -> None:
        self._cancelled = cancelled
        self._queue = queue

    def get_nowait(self) -> Any:
        """Returns the next request that wasn't cancelled.

        Raises:
            queue.Empty: If there is none.
        """
        while True:
            context = self._queue.get_nowait()
            if not self._cancelled.has(context.request_id):
                return context


class _Cancellations:
    def __init__(self, cancelled: CancellableRequests, queue: Any) -> None:
        self._cancelled = cancelled
        self._queue = queue

    def get_nowait(self) -> Any:
        """Returns the next list of ids, and remembers them.

        Raises:
            queue.Empty: If there is none.
        """
        ids = self._queue.get_nowait()
        for request_id in ids:
            self._cancelled.add(request_id)
        return ids


def cancellable_queues(requests: Any, cancellations: Any) -> tuple[Any, Any]:
    """Returns MAX's queues so that no request is taken after its cancellation.

    Args:
        requests: The queue of requests.
        cancellations: The queue of lists of cancelled requests' ids.
    """
    queues = CancellableRequests(requests, cancellations)
    return queues.requests, queues.cancellations
