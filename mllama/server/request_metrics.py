"""MAX's metrics of requests for answers, on the server's ``/metrics`` page."""

from __future__ import annotations

import time

from mllama.max_compat.server import METRICS


class RequestMeasurement:
    """Counts a request from now until :meth:`end`.

    Args:
        path: The request's path.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._started = time.perf_counter()
        self._is_over = False
        METRICS.reqs_running(1)

    def end(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts the end of the request; later calls count nothing.

        Args:
            prompt_tokens: Tokens of its prompts that were read.
            completion_tokens: Tokens of its answers.
        """
        if self._is_over:
            return
        self._is_over = True
        METRICS.reqs_running(-1)
        milliseconds = (time.perf_counter() - self._started) * 1000
        METRICS.request_time(milliseconds, self._path)
        METRICS.input_tokens(prompt_tokens)
        METRICS.output_tokens(completion_tokens)
        METRICS.input_tokens_per_request(prompt_tokens, None)
        METRICS.output_tokens_per_request(completion_tokens, None)
