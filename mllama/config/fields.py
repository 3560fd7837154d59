"""Takes values out of a JSON object with a type, a range and a default."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from mllama.errors import ConfigError, quoted

LARGEST_SIZE: Final = 2**31 - 1
"""Sizes beyond it can't be allocated by anything; config files are untrusted."""

MOST_LAYERS: Final = 1024
"""Bounds the lists that are made from an untrusted file."""


def require(condition: bool, message: str) -> None:
    """Refuses a contradiction.

    Raises:
        ConfigError: If the condition doesn't hold.
    """
    if not condition:
        raise ConfigError(f"config.json contradicts itself: {message}")


class Section:
    """A part of the config whose values are taken with a type and a default.

    A value of ``null`` counts as missing, as it does in transformers.  All methods
    raise ConfigError, naming the field, if a value is of another type or out of range.

    Args:
        name: How messages call it; an empty name is the file itself.
        values: A JSON object; None is one without fields.
        file: How messages call the file.
    """

    def __init__(self, name: str, values: Any, file: str = "config.json") -> None:
        values = {} if values is None else values
        if not isinstance(values, Mapping):
            raise ConfigError(f"{file}: {name or 'the file'} must be an object")
        self._file = file
        self._prefix = f"{name}." if name else ""
        self.values: Mapping[str, Any] = values

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is."""
        value = self.values.get(key)
        return default if value is None else value

    def refusal(self, key: str, wanted: str) -> ConfigError:
        """The error about a field's value, which is quoted in short."""
        found = quoted(self.values.get(key))
        return ConfigError(
            f"{self._file}: {self._prefix}{key} must be {wanted}, not {found}"
        )

    def integer(
        self, key: str, default: int, *, least: int = 1, most: int = LARGEST_SIZE
    ) -> int:
        """A whole number from ``least`` to ``most``."""
        value = self.get(key, default)
        if not is_integer(value) or not least <= value <= most:
            raise self.refusal(key, f"a whole number from {least} to {most}")
        return int(value)

    def number(self, key: str, default: float) -> float:
        """A finite number above 0."""
        value = self.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 < value <= sys.float_info.max
        ):
            raise self.refusal(key, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """``true`` or ``false``."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def text(self, key: str, default: str | None) -> str | None:
        """A string, or the default."""
        value = self.get(key, default)
        if value is not None and not isinstance(value, str):
            raise self.refusal(key, "a string")
        return value

    def integers(self, key: str, default: list[int]) -> tuple[int, ...]:
        """A list of whole numbers, of any size."""
        value = self.get(key, default)
        if not isinstance(value, (list, tuple)) or not all(map(is_integer, value)):
            raise self.refusal(key, "a list of whole numbers")
        return tuple(value)

    def token_ids(self, key: str, default: int) -> tuple[int, ...]:
        """One token id or several; none if the file says ``null``."""
        value = self.values.get(key, default)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(is_integer(item) and item >= 0 for item in ids):
            raise self.refusal(key, "a token id or a list of them")
        return tuple(ids)


def is_integer(value: Any) -> bool:
    """Whether it is a whole number; Python's True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def activation(section: Section, supported: str) -> str:
    """The activation, of which one is supported.

    Raises:
        ConfigError: If it is another.
    """
    if section.get("hidden_act", supported) != supported:
        raise section.refusal("hidden_act", f"{supported!r}, the only one supported")
    return supported
