"""What a server does when there is more to do than it can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllama.errors import MllamaError
from mllama.launch.defaults import DEFAULT_QUEUE_SIZE

if TYPE_CHECKING:
    from mllama.max_compat.server import Settings


@dataclass(frozen=True, kw_only=True)
class OverloadOptions:
    """What a server does when there is more to do than it can.

    Attributes:
        max_queue_size: Requests that may wait.
    """

    max_queue_size: int = DEFAULT_QUEUE_SIZE


def overload_options(settings: Settings) -> OverloadOptions:
    """Returns the options among MAX's settings.

    Args:
        settings: Settings of the server, from options and the environment.

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
    return OverloadOptions(max_queue_size=size)
