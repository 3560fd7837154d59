"""Sizes in bytes: parsed from text, and formatted for people."""

from __future__ import annotations

import re

from mllama.errors import MllamaError

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", 1):
    _UNITS |= {f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}
    _UNITS |= {_letter: 1024**_power}


def parse_size(text: str, memory: int) -> int:
    """Returns the bytes that a text stands for.

    Args:
        text: A number of bytes, with or without a unit, or a share of the memory.
            ``MB`` is decimal; ``MiB`` and ``M`` are binary.  A share is a fraction
            below 1 such as ``0.2``, or a percentage such as ``20%``.
        memory: The memory in bytes.

    Raises:
        MllamaError: If the text is not a size.
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
        f"{text!r} is not a valid size of an image cache: use bytes (4GiB, 500MB) or a "
        "share of the device's memory below 1 (0.2, 20%)"
    )


def format_bytes(count: int) -> str:
    """Returns a number of bytes as text with a binary unit, such as ``1.5 GiB``."""
    number = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
