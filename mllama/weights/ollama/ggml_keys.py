"""Takes values out of a GGUF file's keys with a type, a range and a default.

:class:`~mllama.config.fields.Section` does so for JSON; here names are ggml's, and the
file that a message names is the GGUF file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mllama.config.fields import LARGEST_SIZE, is_integer
from mllama.errors import CheckpointError, quoted
from mllama.weights.gguf.file import GgufFile


class GgmlKeys:
    """The keys of a file.

    All methods raise CheckpointError, naming file and key, if a value is missing
    without a default, of another type or out of range.

    Args:
        file: The file.
    """

    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def __contains__(self, key: str) -> bool:
        return key in self._file.metadata

    def integer(
        self,
        key: str,
        default: int | None = None,
        *,
        least: int = 1,
        most: int = LARGEST_SIZE,
    ) -> int:
        """A whole number from ``least`` to ``most``."""
        value = self._get(key, default)
        if not is_integer(value) or not least <= value <= most:
            raise self.refusal(key, f"a whole number from {least} to {most}")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0: of those that float32 can't tell apart, the one
        with the fewest digits, as a JSON file has it."""
        value = self._get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 < value <= float(np.finfo(np.float32).max)
        ):
            raise self.refusal(key, "a number above 0")
        return shortest(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or False."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.refusal(key, "a text")
        return value

    def integers(self, key: str, *, least: int = 0) -> list[int]:
        """A list of whole numbers from ``least``."""
        value = self._get(key, None)
        if not isinstance(value, list) or not all(
            is_integer(item) and least <= item <= LARGEST_SIZE for item in value
        ):
            raise self.refusal(key, f"a list of whole numbers from {least}")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(t, str) for t in value):
            raise self.refusal(key, "a list of texts")
        return value

    def refusal(self, key: str, wanted: str) -> CheckpointError:
        """The error about a key's value, which is quoted in short."""
        found = quoted(self._file.metadata.get(key))
        return CheckpointError(
            f"{self._file.path}: {key} must be {wanted}, not {found}"
        )

    def _get(self, key: str, default: Any) -> Any:
        value = self._file.metadata.get(key, default)
        if value is None:
            raise CheckpointError(
                f"{self._file.path} lacks the key {key}; give a directory with the "
                "model's config.json and tokenizer as --model-path and this file as "
                "--weight-path"
            )
        return value


def shortest(value: float) -> float:
    """The number with the fewest digits that float32 takes for the same."""
    single = np.float32(value)
    if single == 0 or not math.isfinite(single):
        return float(value)
    return float(str(single))
