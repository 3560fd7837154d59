"""Traces of requests, which go to a collector of OpenTelemetry's protocol (OTLP)."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from mllama.server.observability.request_record import RequestRecord


class RequestSpan:
    """The span of an HTTP request."""

    @classmethod
    def start(
        cls, record: RequestRecord, scope: Scope, headers: Headers
    ) -> RequestSpan | None:
        """Starts the span of a request; returns None if nothing is traced."""
        return None

    def end(self, record: RequestRecord, route: str | None) -> None:
        """Ends the span."""
