"""How many images a request may show and how much memory they get, as users say it."""

from __future__ import annotations

import re
from typing import Any

from mllama.errors import MllamaError

IMAGE_CACHE_SIZE = "image_cache_size"
"""Key of MAX's ``vision_config_overrides``: the size asked for, as text."""

MAX_IMAGES_PER_REQUEST = "max_images_per_request"
"""Key of MAX's ``vision_config_overrides``."""

DEFAULT_MAX_IMAGES = 32

GPU_IMAGES = "MLLAMA_GPU_IMAGES"
"""Environment variable: ``1`` lets images through on a GPU, for whoever looks for what
is wrong there (``docs/gpu.md``)."""

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", 1):
    _UNITS |= {f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}
    _UNITS |= {_letter: 1024**_power}


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


def parse_size(text: str, memory: int) -> int:
    """Bytes that a size stands for.

    Args:
        text: Bytes, with a unit such as ``MB`` or ``GiB`` if need be, or a share of
            the memory such as ``0.2`` or ``20%``.
        memory: Bytes that a share is of.

    Raises:
        MllamaError: If the text is no size.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(%|[A-Za-z]*)", text.strip())
    if match:
        number, unit = float(match[1]), match[2].upper()
        if unit == "%":
            number, unit = number / 100, ""
        if unit == "" and ("." in match[1] or match[2] == "%"):
            if 0 < number < 1:
                return int(number * memory)
        elif unit in _UNITS and number > 0:
            return int(number * _UNITS[unit])
    raise MllamaError(
        f"{text!r} is no size of an image cache: use bytes (4GiB, 500MB) or a share of "
        "the device's memory below 1 (0.2, 20%)"
    )


def readable(count: int) -> str:
    """Bytes with a unit."""
    number = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
