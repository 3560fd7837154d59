"""Fields of a request's context that describe its images, in addition to MAX's."""

from __future__ import annotations

from typing import Any

ASPECT_RATIO_IDS = "aspect_ratio_ids"
"""Key of a context's ``extra_model_args``: int64 ``[images]``."""

IMAGE_TOKENS = "image_tokens"
"""Key of a context's ``extra_model_args``: int64 ``[images]``, the image tokens of
each image's valid tiles, to which the text attends."""


def image_tokens_of(context: Any) -> int:
    """Returns the number of image tokens of a request's images."""
    return int(sum(context.extra_model_args.get(IMAGE_TOKENS, ())))
