"""Telemetry is off unless the user turns it on.

MAX reports to Modular from two places: its C++ engine (compilations and crashes) and
its server (logs and metrics).  Both read the environment when they are imported, so
this must run before MAX is.  ``MLLAMA_TELEMETRY=1`` leaves everything as MAX has it;
a variable that the user has set is never overwritten.
"""

from __future__ import annotations

import os

SWITCH = "MLLAMA_TELEMETRY"
"""Environment variable that leaves MAX's telemetry on when it is ``1``."""

_ALWAYS = {
    # MAX's engine.
    "MODULAR_TELEMETRY_ENABLED": "0",
    # Hugging Face's hub client, which MAX downloads with.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_SERVER = {
    # Stops what MAX Serve sends out and keeps its own /metrics page, which
    # MAX_SERVE_DISABLE_TELEMETRY would take away too.
    "OTEL_SDK_DISABLED": "true",
}
_LIBRARY = {
    # Not OTEL_SDK_DISABLED: the caller's program may trace itself with OpenTelemetry.
    "MAX_SERVE_DISABLE_TELEMETRY": "1",
}


def disable_telemetry(*, server: bool = False) -> None:
    """Sets the environment's switches, unless the user has decided otherwise.

    Args:
        server: Whether this process is a server of its own rather than a library
            inside the caller's.
    """
    if os.environ.get(SWITCH) == "1":
        return
    for name, value in {**_ALWAYS, **(_SERVER if server else _LIBRARY)}.items():
        os.environ.setdefault(name, value)
