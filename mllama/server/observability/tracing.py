"""Traces of requests, which go to a collector of OpenTelemetry's protocol (OTLP)."""

from __future__ import annotations

import time
from typing import Any, Final

from opentelemetry import propagate, trace
from starlette.datastructures import Headers
from starlette.types import Scope

from mllama.max_compat.tracing import are_spans_exported, set_worker_parent
from mllama.server.observability.request_record import Outcome, RequestRecord
from mllama.version import __version__

_LONGEST_PATH: Final = 200
"""The longest path in a span, in characters."""


class RequestSpan:
    """The span of an HTTP request, with one for each of its phases.

    The worker has further ones of the same trace.

    Args:
        record: The request.
        span: Its span.
    """

    def __init__(self, record: RequestRecord, span: trace.Span) -> None:
        self._record = record
        self._span = span

    @classmethod
    def start(
        cls, record: RequestRecord, scope: Scope, headers: Headers
    ) -> RequestSpan | None:
        """Starts the span of a request; returns None if nothing is traced.

        Args:
            record: The request.
            scope: Its ASGI scope.
            headers: Its headers, in which the client may name its own span.
        """
        if not are_spans_exported():
            return None
        inbound = propagate.extract(headers)
        span = _tracer().start_span(
            record.method,
            context=inbound,
            kind=trace.SpanKind.SERVER,
            attributes={
                "http.request.method": record.method,
                "url.path": scope["path"][:_LONGEST_PATH],
                "url.scheme": scope.get("scheme", "http"),
                "client.address": record.client,
                "max.request_id": record.id,
            },
        )
        set_worker_parent(record.id, inbound, span)
        context = span.get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
        return cls(record, span)

    def end(self, route: str | None) -> None:
        """Ends the span when the request has ended.

        Args:
            route: The template of its path; None if there is none.
        """
        record, span = self._record, self._span
        if route is not None:
            span.update_name(f"{record.method} {route}")
        span.set_attributes(_attributes(record, route))
        if record.outcome is Outcome.ERROR:
            span.set_status(trace.StatusCode.ERROR)
        context = trace.set_span_in_context(span)
        # From the clock that doesn't jump to that of the day.
        shift = time.time_ns() - time.perf_counter_ns()
        for phase in record.phases:
            part = _tracer().start_span(
                phase.name, context=context, start_time=phase.started_ns + shift
            )
            part.end(phase.ended_ns + shift)
        span.end()


def _attributes(record: RequestRecord, route: str | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.route": route,
        "http.response.status_code": record.status or None,
        "error.type": record.error_code,
        "mllama.outcome": record.outcome.value,
        "mllama.client_request_id": record.client_id,
    }
    if record.answers:
        attributes |= {
            # The names that OpenTelemetry has for them.
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.generated_tokens,
            "mllama.cached_tokens": record.cached_tokens,
            "mllama.images": record.images,
            "mllama.first_token_seconds": record.first_token_seconds,
        }
    return {name: value for name, value in attributes.items() if value is not None}


def _tracer() -> trace.Tracer:
    return trace.get_tracer("mllama", __version__)
