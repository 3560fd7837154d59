"""MAX's undocumented names that the HTTP server needs.

They are in a separate module because they load a web server, which neither the model's
worker nor the Python API needs.
"""

from __future__ import annotations

# Logs a pipeline's configuration before it starts.
from max.pipelines.logging_utils import log_basic_config, log_pipeline_info

# Builds MAX Serve's application as `max serve` does.
from max.serve.api_server import ServingTokenGeneratorSettings, fastapi_app

# The server's settings: environment, .env file and options.
from max.serve.config import Settings

# What the middleware answers with status 499.
from max.serve.router._disconnect import ClientDisconnected

# Which hosts the server must not fetch images from, and which files it may read.
from max.serve.router._image_resolution import (
    _host_allowlisted as host_is_allowed,
)
from max.serve.router._image_resolution import (
    _ip_is_blocked as is_internal_address,
)
from max.serve.router._image_resolution import (
    _parse_allowed_hosts as parse_allowed_hosts,
)
from max.serve.router._image_resolution import make_media_ref, resolve_image_from_url

# The scheduler's settings, which it checks in the worker.
from max.serve.scheduler.config import TokenGenerationSchedulerConfig

# What the worker reports about a request.
from max.serve.scheduler_result import SchedulerResult

# Gives the worker's spans of a request their parent.
from max.serve.telemetry._trace_context import inject_trace_carrier

# Logs, and metrics for the local /metrics page.
from max.serve.telemetry.common import (
    configure_logging,
    configure_metrics,
)

# Counts requests and their images for the local /metrics page.
from max.serve.telemetry.metrics import METRICS

# Reports that too many requests wait.
from max.serve.worker_interface import RequestQueueFull

__all__ = [
    "METRICS",
    "ClientDisconnected",
    "RequestQueueFull",
    "SchedulerResult",
    "ServingTokenGeneratorSettings",
    "Settings",
    "TokenGenerationSchedulerConfig",
    "configure_logging",
    "configure_metrics",
    "fastapi_app",
    "host_is_allowed",
    "inject_trace_carrier",
    "is_internal_address",
    "log_basic_config",
    "log_pipeline_info",
    "make_media_ref",
    "parse_allowed_hosts",
    "resolve_image_from_url",
]
