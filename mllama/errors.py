"""Errors whose message is meant for the user: one line, what is wrong, the way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MllamaError(ValueError):
    """Bad input.  The command line prints it and exits 2, the server answers 400."""


class ConfigError(MllamaError):
    """The checkpoint's configuration is missing, contradicts itself or can't be
    served."""


class CheckpointError(MllamaError):
    """The checkpoint's files are missing, damaged or of another model."""


class CompiledModelError(MllamaError):
    """A directory of compiled graphs is damaged, or is for another start."""


class ImageError(MllamaError):
    """An image can't be read or used."""


class HubError(MllamaError):
    """A repository of Hugging Face's hub can't be had, or holds no such model."""


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names in a row as messages show them: the first ones, and how many more."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def quoted(value: Any) -> str:
    """A value from outside as messages show it: on one line, and not all of it."""
    text = repr(value[:80] if isinstance(value, (str, list)) else value)
    return text if len(text) <= 80 else f"{text[:80]}..."
