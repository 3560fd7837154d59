"""Which HTTP request a request to the engine belongs to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from starlette.requests import Request

from mllama.server.clients import NOBODY, ClientId, client_of


@dataclass(frozen=True, kw_only=True)
class RequestOrigin:
    """The HTTP request that a request to the engine belongs to.

    Attributes:
        request_id: Its id, for logs, with a suffix if it makes several requests to the
            engine; None makes one.
        arrived_ns: When it arrived, by ``time.perf_counter_ns()``, for timings.
        client: Who sent it.
        part: Which of its requests to the engine this is, from 0.
        is_batch: Whether it is a request of a batch, which nobody waits for.
    """

    request_id: str | None = None
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    client: ClientId = NOBODY
    part: int = 0
    is_batch: bool = False

    def of_part(self, number: int) -> RequestOrigin:
        """Returns the origin of one of the HTTP request's requests to the engine.

        Args:
            number: Which one, from 0.
        """
        if not number:
            return self
        request_id = None if self.request_id is None else f"{self.request_id}-{number}"
        return replace(self, request_id=request_id, part=number)


def origin_of(request: Request) -> RequestOrigin:
    """Returns the origin that an HTTP request is, which arrives now."""
    return RequestOrigin(
        request_id=request.state.request_id, client=client_of(request.scope)
    )
