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
    if os.environ.get(SWITCH) == "1":
        return
    for name, value in {**_ALWAYS, **(_SERVER if server else _LIBRARY)}.items():
        os.environ.setdefault(name, value)
