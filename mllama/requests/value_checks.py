"""Checks of numbers and lists that a request gives."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, Final

from mllama.errors import RequestError, quoted

MAX_INTEGER: Final = 2**63 - 1
"""The largest integer that MAX takes."""


def is_list(value: Any) -> bool:
    """Returns True for a list or tuple, and False for a text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def integer(name: str, value: Any, least: int, most: int) -> int:
    """Returns a checked integer.

    Args:
        name: The setting's name, for the message.
        value: What is given.
        least: The smallest possible one.
        most: The largest possible one.

    Raises:
        RequestError: If it is no integer, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise wrong(name, "be an integer", value)
    checked = int(value)
    if not least <= checked <= most:
        limits = f"from {least} to {most}"
        if most == MAX_INTEGER:
            limits = "from 0 to 2^63 - 1" if name == "seed" else f"at least {least}"
        raise wrong(name, f"be {limits}", checked)
    return checked


def number(name: str, value: Any, least: float, most: float) -> float:
    """Returns a checked finite number; the arguments are those of :func:`integer`.

    Raises:
        RequestError: If it is no number, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise wrong(name, "be a number", value)
    checked = float(value)
    if not math.isfinite(checked) or not least <= checked <= most:
        limits = f"from {least:g} to {most:g}"
        limits = "a finite number greater than 0" if most == math.inf else limits
        raise wrong(name, f"be {limits}", checked)
    return checked


def wrong(name: str, rule: str, value: Any) -> RequestError:
    """Returns the error of a setting's value.

    Args:
        name: The setting's name.
        rule: What the value must do, such as "be an integer".
        value: What is given.
    """
    return RequestError(f"{name} must {rule}, not {quoted(value)}", name)
