"""The metrics of ``/metrics``, in a registry of their own.

Names are those of vLLM, with this server's prefix, where they mean the same.  No label
has a value that a client chooses.  ``docs/monitoring.md`` has them all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from mllama.server.observability.request_record import Outcome, current_record

PREFIX: Final = "mllama"

REGISTRY: Final = CollectorRegistry()
"""All that ``/metrics`` shows."""

# Without them, each counter and each histogram has another series.
disable_created_metrics()  # type: ignore[no-untyped-call]
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# From the first token of a small model on a GPU to four images of 11B on two cores.
_FIRST_TOKEN_SECONDS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)
_TOKEN_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12),
    *(10, 20, 40, 80),
)
_REQUEST_SECONDS: Final = (*_FIRST_TOKEN_SECONDS, 1280, 2560)
_QUEUE_SECONDS: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600)
_PREPARATION_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_TOKEN_COUNTS: Final = (*(2**n for n in range(18)),)


LABEL_VALUES: Final = MappingProxyType(
    {
        "dialect": ("openai", "anthropic", "ollama", "none"),
        "outcome": tuple(each.value for each in Outcome),
        "finished_reason": ("stop", "length", "tool_calls"),
        "source": ("url", "inline", "file"),
        "reason": (
            "bad_scheme",
            "dns_failure",
            "ssrf_blocked",
            "over_budget",
            "bad_file",
        ),
    }
)
"""The values of labels that have a fixed set of them."""


class ServerMetrics:
    """The metrics that the server's process records.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], *labels: str
        ) -> Histogram:
            return Histogram(
                f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=registry
            )

        self.requests = counter(
            "requests",
            "HTTP requests that have ended, by API, route and outcome. Probes and "
            "/metrics aren't counted.",
            *("dialect", "route", "outcome"),
        )
        self.request_success = counter(
            "request_success",
            "Answers that were generated to their end, by what ended them.",
            "finished_reason",
        )
        self.prompt_tokens = counter(
            "prompt_tokens", "Tokens of prompts that were read, images' included."
        )
        self.cached_tokens = counter(
            "prompt_tokens_cached", "Tokens of prompts that the caches had."
        )
        self.generation_tokens = counter(
            "generation_tokens", "Tokens that were generated."
        )
        self.prompt_images = counter(
            "prompt_images", "Images that were prepared for prompts."
        )
        self._asked = self._waiting = 0
        gauge("num_requests_running", "Requests that the engine answers.").set_function(
            lambda: self._asked - self._waiting
        )
        gauge("num_requests_waiting", "Requests that wait for a slot.").set_function(
            lambda: self._waiting
        )
        self.queue_time = histogram(
            "request_queue_time_seconds",
            "How long a request waited for its slot.",
            _QUEUE_SECONDS,
        )
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            _FIRST_TOKEN_SECONDS,
        )
        self.inter_token_latency = histogram(
            "inter_token_latency_seconds",
            "Time between two tokens of an answer.",
            _TOKEN_SECONDS,
        )
        self.request_latency = histogram(
            "e2e_request_latency_seconds",
            "From the arrival of a request that was answered to the end of its answer.",
            _REQUEST_SECONDS,
            "dialect",
        )
        self.prompt_lengths = histogram(
            "request_prompt_tokens", "Tokens of a request's prompts.", _TOKEN_COUNTS
        )
        self.generation_lengths = histogram(
            "request_generation_tokens",
            "Tokens of a request's answers.",
            _TOKEN_COUNTS,
        )
        self.image_preparation = histogram(
            "image_preprocessing_seconds",
            "From the file of an image to its tiles, waiting included.",
            _PREPARATION_SECONDS,
        )
        self.image_sources = histogram(
            "image_fetch_seconds",
            "How long it took to get the file of an image, by where it comes from.",
            _PREPARATION_SECONDS,
            "source",
        )
        self.image_rejections = counter(
            "image_rejections",
            "Images that weren't fetched, by the reason.",
            "reason",
        )
        self.worker_restarts = counter(
            "worker_restarts", "Model processes that were started in place of another."
        )
        self.build = gauge("build_info", "1; the versions.", "version", "max_version")
        self.model = gauge("model_info", "1; the model's name.", "model_name")

        for reason in LABEL_VALUES["finished_reason"]:
            self.request_success.labels(reason)
        for reason in LABEL_VALUES["reason"]:
            self.image_rejections.labels(reason)
        for source in LABEL_VALUES["source"]:
            self.image_sources.labels(source)

    def expect_requests(self, dialect: str, route: str) -> None:
        """Shows that no request of a route has ended yet, rather than nothing.

        Args:
            dialect: The API of the route.
            route: The template of its path.
        """
        for outcome in Outcome:
            self.requests.labels(dialect, route, outcome.value)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Counts, within a ``with`` block, a request that the engine is asked."""
        self._asked += 1
        try:
            yield
        finally:
            self._asked -= 1

    def count_waiting(self, change: int) -> None:
        """Changes the number of requests that wait for a slot."""
        self._waiting += change

    def queue_wait(self, *, is_observed: bool = True) -> QueueWait:
        """Returns what records how long a request waits for its slot.

        Args:
            is_observed: Whether the time counts among those of requests.
        """
        return QueueWait(self, is_observed)

    def count_request(self, dialect: str, route: str, outcome: Outcome) -> None:
        """Counts a request that has ended.

        Args:
            dialect: The API that it came by.
            route: The template of its path.
            outcome: How it ended.
        """
        self.requests.labels(dialect, route, outcome.value).inc()


class QueueWait:
    """How long a request waits for its slot, which may be in several parts.

    Args:
        metrics: Where it is recorded.
        is_observed: See :meth:`ServerMetrics.queue_wait`.
    """

    def __init__(self, metrics: ServerMetrics, is_observed: bool) -> None:
        self._metrics = metrics
        self._is_observed = is_observed
        self._seconds = 0.0
        self._is_over = False

    @contextmanager
    def part(self) -> Iterator[None]:
        """Records, within a ``with`` block, that the current request waits."""
        started_ns = time.perf_counter_ns()
        self._metrics.count_waiting(1)
        try:
            yield
        finally:
            self._metrics.count_waiting(-1)
            ended_ns = time.perf_counter_ns()
            self._seconds += (ended_ns - started_ns) / 1e9
            if (record := current_record()) is not None:
                record.queue_seconds += (ended_ns - started_ns) / 1e9
                record.add_phase("mllama.queue", started_ns, ended_ns)

    def end(self) -> None:
        """Records the whole, when the request has its slot or gives up.

        Further calls do nothing.
        """
        if not self._is_over:
            self._is_over = True
            if self._is_observed:
                self._metrics.queue_time.observe(self._seconds)


METRICS: Final = ServerMetrics(REGISTRY)
"""The metrics of this process."""
