"""What is known of an HTTP request while it is answered: for metrics, logs, traces."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

_CLIENT_ID: Final = re.compile(r"[!-~]{1,128}")
"""Ids of clients that are used: printable ASCII without spaces, of bounded length."""


class Outcome(str, Enum):
    """How a request ended.

    Attributes:
        OK: It was answered.
        CLIENT_ERROR: It was wrong or not allowed.
        OVERLOADED: Too many others waited.
        CANCELLED: Its client went away before the end of the answer.
        ERROR: The server failed on it.
    """

    OK = "ok"
    CLIENT_ERROR = "client_error"
    OVERLOADED = "overloaded"
    CANCELLED = "cancelled"
    ERROR = "error"


def outcome_of_status(status: int) -> Outcome:
    """Returns the outcome that an HTTP status stands for."""
    if status < 400:
        return Outcome.OK
    if status == 429:
        return Outcome.OVERLOADED
    return Outcome.ERROR if status >= 500 else Outcome.CLIENT_ERROR


def client_request_id(header: str | None) -> str | None:
    """Returns the id that a client gives a request, or None if it can't be used.

    Args:
        header: The value of ``X-Request-Id``.
    """
    if header is None or _CLIENT_ID.fullmatch(header) is None:
        return None
    return header


_MOST_PHASES: Final = 128
"""How many phases of a request are kept."""


class Phase(NamedTuple):
    """A part of the time that a request takes.

    Attributes:
        name: What is done.
        started_ns: When it began, by ``time.perf_counter_ns()``.
        ended_ns: When it ended.
    """

    name: str
    started_ns: int
    ended_ns: int


@dataclass(kw_only=True, eq=False)
class RequestRecord:
    """A request while it is answered.

    Attributes:
        id: This server's own name of the request, which is unique.
        client_id: The client's name of it, or None.
        method: The HTTP method.
        client: The client's address.
        arrived_ns: When it arrived, by ``time.perf_counter_ns()``.
        status: The HTTP status that was sent; 0 if none was.
        is_complete: Whether the whole response was sent.
        client_left: Whether the client went away before.
        failure: How it failed, if an error ended it.
        error_code: The kind of error, a word of this server's.
        answers: How many times the engine was asked.
        prompt_tokens: Tokens of its prompts that were read, those of images included.
        cached_tokens: Those of them that the caches had.
        generated_tokens: Tokens of its answers.
        images: Images that were prepared for it.
        first_token_seconds: From its arrival to the first token; None without one.
        queue_seconds: How long it waited for its turn.
        phases: Its phases, for its trace.
        trace_id: Names the trace that it belongs to, or None.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    client_id: str | None = None
    method: str = ""
    client: str = ""
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    status: int = 0
    is_complete: bool = False
    client_left: bool = False
    failure: Outcome | None = None
    error_code: str | None = None
    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    images: int = 0
    first_token_seconds: float | None = None
    queue_seconds: float = 0.0
    phases: list[Phase] = field(default_factory=list)
    trace_id: str | None = None

    @property
    def visible_id(self) -> str:
        """Returns the name that the client knows: its own, or the server's."""
        return self.client_id or self.id

    @property
    def outcome(self) -> Outcome:
        """Returns how the request ended."""
        if self.failure is not None:
            return self.failure
        if self.client_left and not self.is_complete:
            return Outcome.CANCELLED
        return outcome_of_status(self.status) if self.is_complete else Outcome.ERROR

    def note_failure(self, outcome: Outcome, code: str | None) -> None:
        """Notes the error that ends the request; the first one counts.

        Args:
            outcome: How the request ends.
            code: The kind of error.
        """
        if self.failure is None:
            self.failure, self.error_code = outcome, code

    def add_phase(self, name: str, started_ns: int, ended_ns: int) -> None:
        """Notes a phase that has ended, if the request is traced.

        Args:
            name: What was done.
            started_ns: When it began, by ``time.perf_counter_ns()``.
            ended_ns: When it ended.
        """
        if self.trace_id is not None and len(self.phases) < _MOST_PHASES:
            self.phases.append(Phase(name, started_ns, ended_ns))

    def seconds(self) -> float:
        """Returns how long ago the request arrived."""
        return (time.perf_counter_ns() - self.arrived_ns) / 1e9


_current: Final[ContextVar[RequestRecord | None]] = ContextVar(
    "mllama_request", default=None
)


def current_record() -> RequestRecord | None:
    """Returns the record of the request that this task belongs to, or None."""
    return _current.get()


@contextmanager
def recording(record: RequestRecord) -> Iterator[None]:
    """Makes a record that of this task and of those that it starts."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)
