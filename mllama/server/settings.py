"""MAX Serve's settings with this package's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mllama.max_compat.server import Settings

_PHOTOS_BYTES: Final = 256 * 2**20
"""The default limit for a request's body, and for the files of its images together."""


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Returns the settings of the environment and of these values.

    Args:
        values: Values by the names of MAX's variables.
    """
    settings = Settings(**values)
    # 32 photos of a phone are more than MAX's limits, unless somebody has set those.
    for name in {"max_request_bytes", "max_media_bytes"} - settings.model_fields_set:
        settings = settings.model_copy(update={name: _PHOTOS_BYTES})
    return settings


def without_queue_bounds(settings: Settings) -> Settings:
    """Returns MAX Serve's settings without bounds of its queues.

    The bound is this package's: MAX's queues behind it never fill.
    """
    return settings.model_copy(
        update={"max_queue_size": None, "max_pending_requests": None}
    )
