"""MAX's undocumented names that traces of requests need."""

from __future__ import annotations

from max.serve.config import Settings

# What the worker's spans get as their parent, and logs as the request's id.
# Starts the export of spans, and hides the variable that would keep the SDK from it.
from max.serve.telemetry.common import (
    _capture_request_context,
    _sdk_disable_masked,
    _tracing_enabled,
    configure_tracing,
)
from opentelemetry import trace
from opentelemetry.context import Context


def start_tracing(settings: Settings) -> None:
    """Exports spans of this process from now on, to where the environment says.

    MAX would not, since ``OTEL_SDK_DISABLED`` keeps its own reports off.

    Args:
        settings: MAX Serve's settings.
    """
    if not _tracing_enabled():
        with _sdk_disable_masked():
            configure_tracing(settings)


def are_spans_exported() -> bool:
    """Returns True if spans of this process go anywhere."""
    return bool(_tracing_enabled())


def set_worker_parent(request_id: str, inbound: Context, span: trace.Span) -> None:
    """Makes a span the parent of those that the worker has of the current request.

    Args:
        request_id: The request's id.
        inbound: The context that the client sent.
        span: The span.
    """
    _capture_request_context(request_id, inbound, span)
