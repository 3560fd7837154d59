"""Telemetry of MAX and the hub's client, off unless the user turns it on.

MAX reports to Modular from two places: its C++ engine (compilations and crashes) and
its server (logs and metrics).  Both read the environment when they are imported, so
:func:`disable_telemetry` must run before that.  ``MLLAMA_TELEMETRY=1`` keeps MAX's
defaults; a variable that the user has set is never overwritten.
"""

from __future__ import annotations

import os

SWITCH = "MLLAMA_TELEMETRY"
"""The environment variable that keeps MAX's telemetry on if it is ``1``."""

TRACES = "MLLAMA_TRACES"
"""The variable that is ``1`` if a server exports traces of requests: by default if one
of OpenTelemetry's variables names a collector.  They go there, and nowhere else."""

_TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_ALWAYS = {
    # MAX's engine.
    "MODULAR_TELEMETRY_ENABLED": "0",
    # Hugging Face's hub client.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_SERVER = {
    # Stops reports of MAX Serve but keeps its /metrics page, which
    # MAX_SERVE_DISABLE_TELEMETRY would remove, too.
    "OTEL_SDK_DISABLED": "true",
}
_LIBRARY = {
    # Not OTEL_SDK_DISABLED: the caller's program may trace itself with OpenTelemetry.
    "MAX_SERVE_DISABLE_TELEMETRY": "1",
}


def disable_telemetry(*, server: bool = False) -> None:
    """Turns telemetry off in the environment, unless the user has set it.

    Args:
        server: Whether this process is a server, rather than the caller's program.
    """
    if server:
        _configure_traces()
    if os.environ.get(SWITCH) == "1":
        return
    for name, value in {**_ALWAYS, **(_SERVER if server else _LIBRARY)}.items():
        os.environ.setdefault(name, value)


def _configure_traces() -> None:
    """Has a server export traces if the environment names a collector."""
    environ = os.environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        # The user's, or this module's, which has been here before.
        environ.setdefault(TRACES, "0")
        return
    if endpoint := environ.get(_ENDPOINT):
        protocol = next(filter(None, map(environ.get, _PROTOCOLS)), "http/protobuf")
        # As OpenTelemetry has it: over HTTP, each signal has a path below the endpoint.
        path = "" if protocol == "grpc" else "/v1/traces"
        environ.setdefault(_TRACES_ENDPOINT, endpoint.rstrip("/") + path)
    if environ.get(_TRACES_ENDPOINT):
        environ.setdefault(TRACES, "1")
        environ.setdefault("OTEL_SERVICE_NAME", "mllama")


def are_traces_configured() -> bool:
    """Returns True if this process exports traces of requests."""
    return os.environ.get(TRACES) == "1" and bool(os.environ.get(_TRACES_ENDPOINT))
