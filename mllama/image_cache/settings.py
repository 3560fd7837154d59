"""How many images a request may show and how much memory they get, as users say it."""

from __future__ import annotations

from typing import Any

from mllama.errors import MllamaError
from mllama.utils.sizes import parse_size

IMAGE_CACHE_SIZE = "image_cache_size"
"""Key of MAX's ``vision_config_overrides``: the size asked for, as text."""

MAX_IMAGES_PER_REQUEST = "max_images_per_request"
"""Key of MAX's ``vision_config_overrides``."""

DEFAULT_MAX_IMAGES = 32

GPU_IMAGES = "MLLAMA_GPU_IMAGES"
"""Environment variable: ``1`` lets images through on a GPU, for whoever looks for what
is wrong there (``docs/gpu.md``)."""


def image_settings(
    cache_size: str | int | None, max_per_request: int | None
) -> dict[str, Any]:
    """The settings in the form that MAX hands on, its ``vision_config_overrides``.

    Args:
        cache_size: See :func:`parse_size`; None chooses.
        max_per_request: Most images of one request; None is the default.

    Raises:
        MllamaError: If one can't be used.
    """
    settings: dict[str, Any] = {}
    if cache_size is not None:
        parse_size(str(cache_size), memory=1)
        settings[IMAGE_CACHE_SIZE] = str(cache_size)
    if max_per_request is not None:
        if max_per_request < 1:
            raise MllamaError(
                f"a request must be allowed at least 1 image, not {max_per_request}"
            )
        settings[MAX_IMAGES_PER_REQUEST] = max_per_request
    return settings
