"""Variables of a process that serves HTTP, which MAX reads as it is imported."""

from __future__ import annotations

import os
from typing import Final

from mllama.utils.max_threads import limit_spinning
from mllama.utils.telemetry import disable_telemetry

_DEFAULTS: Final = {
    # Shows this package's own lines in the log.
    "MAX_SERVE_LOGS_ENABLE_COMPONENTS": "mllama",
    "MAX_SERVE_HOST": "127.0.0.1",
    # /metrics has this package's metrics: MAX's would take time in each step, and in
    # the worker nothing reads them.
    "MAX_SERVE_METRIC_RECORDING_METHOD": "NOOP",
}


def prepare_environment() -> None:
    """Sets the variables, unless the user has, in this process and in the model's."""
    disable_telemetry(server=True)
    limit_spinning()
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
