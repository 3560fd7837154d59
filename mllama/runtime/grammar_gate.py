"""Reads the grammars of requests in a thread, before the requests are scheduled.

MAX's scheduler holds a request back until its grammar is ready, and goes on with the
others.  Whoever submits a request has read its grammar within the same limits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

from mllama.max_model.sampling_context import grammar_of
from mllama.requests.token_grammars import TokenGrammars

logger = logging.getLogger("mllama")


class GrammarGate:
    """Has the methods of MAX's ``AsyncGrammarGate``, for the host's sampler.

    Args:
        token_grammars: Makes the reader of grammars, once there is one to read.
    """

    def __init__(self, token_grammars: Callable[[], TokenGrammars]) -> None:
        self._make = token_grammars
        self._reading: dict[Any, Future[Any]] = {}
        self._on_ready: Callable[[], None] = _do_nothing

    def call_when_ready(self, function: Callable[[], None]) -> None:
        """Has a function called, in another thread, when a request may be scheduled."""
        self._on_ready = function

    @cached_property
    def _grammars(self) -> TokenGrammars:
        return self._make()

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="mllama-grammars")

    def submit(self, context: Any) -> None:
        """Starts to read a request's grammar, if it has one."""
        grammar = grammar_of(context)
        if grammar is None or context.matcher is not None:
            return
        if context.request_id in self._reading:
            return
        reading = self._thread.submit(self._matcher, grammar)
        self._reading[context.request_id] = reading
        reading.add_done_callback(lambda _: self._on_ready())

    def _matcher(self, grammar: str) -> Any:
        return self._grammars.matcher(grammar)

    def is_ready(self, context: Any) -> bool:
        """Returns True if a request needs no grammar, or has waited for it."""
        reading = self._reading.get(context.request_id)
        return reading is None or reading.done()

    def install_ready(self, context: Any) -> str | None:
        """Gives a request its grammar; a reason if it failed."""
        reading = self._reading.pop(context.request_id, None)
        if reading is None:
            return None
        try:
            context.set_matcher(reading.result())
        except Exception:
            logger.exception("a grammar that has been checked can't be read")
            return "the grammar of the answer can't be read"
        return None

    def release(self, request_id: Any) -> None:
        """Forgets a request; further calls do nothing."""
        reading = self._reading.pop(request_id, None)
        if reading is not None:
            reading.cancel()


def _do_nothing() -> None:
    pass
