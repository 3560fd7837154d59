"""How many requests may wait, and how long they are waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllama.errors import MllamaError
from mllama.launch.defaults import DEFAULT_QUEUE_SIZE, DEFAULT_SHUTDOWN_TIMEOUT

if TYPE_CHECKING:
    from mllama.max_compat.server import Settings


@dataclass(frozen=True, kw_only=True)
class OverloadOptions:
    """How many requests may wait, and how long they are waited for.

    Attributes:
        max_queue_size: Requests that may wait.
        max_time_to_first_token: Seconds that the first token of a request may be
            expected to take; None is any time.
        shutdown_timeout: Seconds for requests in progress as the server ends.

    Raises:
        MllamaError: If a value is out of range.
    """

    max_queue_size: int = DEFAULT_QUEUE_SIZE
    max_time_to_first_token: float | None = None
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT

    def __post_init__(self) -> None:
        limit = self.max_time_to_first_token
        if limit is not None and limit <= 0:
            raise MllamaError(
                f"--max-time-to-first-token must be more than 0, not {limit:g}"
            )
        if self.shutdown_timeout < 0:
            raise MllamaError(
                f"--shutdown-timeout must be at least 0, not {self.shutdown_timeout}"
            )


def overload_options(
    settings: Settings, max_time_to_first_token: float | None = None
) -> OverloadOptions:
    """Returns the options among MAX's settings.

    Args:
        settings: Settings of the server, from options and the environment.
        max_time_to_first_token: See :class:`OverloadOptions`.

    Raises:
        MllamaError: If two of them contradict each other.
    """
    sizes = {settings.max_queue_size, settings.max_pending_requests} - {None}
    if len(sizes) > 1:
        raise MllamaError(
            f"--max-queue-size {settings.max_queue_size} and --max-pending-requests "
            f"{settings.max_pending_requests} (or MAX_SERVE_MAX_QUEUE_SIZE and "
            "MAX_SERVE_MAX_PENDING_REQUESTS) bound the same queue: give one of them"
        )
    (size,) = sizes or {DEFAULT_QUEUE_SIZE}
    assert size is not None
    timeout = settings.graceful_shutdown_timeout_s
    if "graceful_shutdown_timeout_s" not in settings.model_fields_set:
        timeout = DEFAULT_SHUTDOWN_TIMEOUT
    return OverloadOptions(
        max_queue_size=size,
        max_time_to_first_token=max_time_to_first_token,
        shutdown_timeout=timeout,
    )
