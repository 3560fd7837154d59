"""Values of a GGUF file's metadata keys, checked for their type and range."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import (
    FailFast,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
)

from mllama.config.validation import MAX_SIZE, Integer, PositiveNumber, one_line
from mllama.errors import CheckpointError
from mllama.weights.gguf.file import GgufFile

_T = TypeVar("_T")

_Float32 = Annotated[PositiveNumber, Field(le=float(np.finfo(np.float32).max))]

# A vocabulary is long: one wrong item is enough.
_Integers = Annotated[
    list[Annotated[Integer, Field(ge=0, le=MAX_SIZE)]], FailFast(), Field(strict=True)
]
_Strings = Annotated[list[StrictStr], FailFast(), Field(strict=True)]


class GgmlKeys:
    """The metadata keys of a file, by ggml's names.

    All methods raise CheckpointError, which names the file and the key, if a value has
    a wrong type, is out of range, or is missing and has no default.

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
        most: int = MAX_SIZE,
    ) -> int:
        """Returns an integer from ``least`` to ``most``."""
        return self._get(key, Annotated[Integer, Field(ge=least, le=most)], default)

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a finite number above 0, with the fewest digits that give the same
        float32, as a JSON file would have it."""
        return shortest_float32(self._get(key, _Float32, default))

    def flag(self, key: str, default: bool) -> bool:
        """Returns True or False."""
        return self._get(key, StrictBool, default)

    def string(self, key: str, default: str | None = None) -> str:
        """Returns a string."""
        return self._get(key, StrictStr, default)

    def integers(self, key: str) -> list[int]:
        """Returns a list of integers from 0."""
        return self._get(key, _Integers)

    def strings(self, key: str) -> list[str]:
        """Returns a list of strings."""
        return self._get(key, _Strings)

    def _get(self, key: str, kind: Any, default: Any = None) -> Any:
        value = self._file.metadata.get(key, default)
        if value is None:
            raise CheckpointError(
                f"{self._file.path} lacks the key {key}; give a directory with the "
                "model's config.json and tokenizer as --model-path and this file as "
                "--weight-path"
            )
        try:
            return TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            message = one_line(error, str(self._file.path), key)
            raise CheckpointError(message) from None


def shortest_float32(value: float) -> float:
    """Returns the number with the fewest digits that gives the same float32."""
    single = np.float32(value)
    if single == 0 or not math.isfinite(single):
        return float(value)
    return float(str(single))
