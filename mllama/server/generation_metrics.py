"""Records a generation in MAX's metrics, as MAX's own pipeline does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mllama.max_compat.server import METRICS


class GenerationMetrics:
    """The times of one generation, for ``/metrics``.

    Args:
        arrived_ns: When its HTTP request arrived, by ``time.perf_counter_ns()``.
    """

    def __init__(self, arrived_ns: int) -> None:
        self._arrived_ns = arrived_ns
        self._prepared_ns = 0
        self._first_ns: int | None = None
        self._last_ns = 0
        self._tokens = 0

    @asynccontextmanager
    async def preparation(self, worker: Any) -> AsyncIterator[None]:
        """Records the preparation of the request, within an ``async with`` block.

        Args:
            worker: MAX's proxy of the worker, which counts such requests.
        """
        started = time.perf_counter_ns()
        METRICS.di_api_pre_tokenize((started - self._arrived_ns) / 1e6)
        worker.note_awaiting_admission(1)
        try:
            yield
            self._prepared_ns = time.perf_counter_ns()
            METRICS.input_time((self._prepared_ns - started) / 1e6)
        finally:
            worker.note_awaiting_admission(-1)

    def submitted(self) -> None:
        """Records that the model has the request."""
        self._last_ns = time.perf_counter_ns()
        METRICS.di_api_submit((self._last_ns - self._prepared_ns) / 1e6)

    def received(self, tokens: int) -> None:
        """Records a piece of an answer."""
        now = time.perf_counter_ns()
        if self._first_ns is None:
            METRICS.ttft((now - self._arrived_ns) / 1e6)
            self._first_ns = now
        else:
            METRICS.itl((now - self._last_ns) / 1e6)
        self._last_ns = now
        self._tokens += tokens

    def ended(self) -> None:
        """Records the whole answer, when it is complete or abandoned."""
        if self._first_ns is not None:
            METRICS.output_time((time.perf_counter_ns() - self._prepared_ns) / 1e6)
            if self._tokens > 1:
                decode_ns = self._last_ns - self._first_ns
                METRICS.time_per_output_token(decode_ns / 1e6 / (self._tokens - 1))
