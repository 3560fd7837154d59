"""Checks values from an untrusted file with pydantic, and reports errors in one line.

Numbers are strict: neither strings nor booleans count as numbers, nor floats as
integers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, Strict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from mllama.errors import ConfigError, quoted

MAX_SIZE: Final = 2**31 - 1
"""Nothing can allocate a larger size; config files are untrusted."""

MAX_LAYERS: Final = 1024
"""Bounds the lists that are made from an untrusted file."""

Integer = Annotated[int, Strict()]
Size = Annotated[Integer, Field(ge=1, le=MAX_SIZE)]
LayerCount = Annotated[Integer, Field(ge=1, le=MAX_LAYERS)]
TokenId = Annotated[Integer, Field(ge=0, le=MAX_SIZE)]
PositiveNumber = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class ConfigSection:
    """The base of the dataclasses that are read from an object of a JSON file.

    A value of ``null`` counts as missing, as it does in transformers.

    Attributes:
        file: The file's name in messages.
        section: The object's name in messages; empty for the whole file.
        nullable: Fields in which ``null`` has a special meaning.
    """

    file: ClassVar[str] = "config.json"
    section: ClassVar[str] = ""
    nullable: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Reads the object.

        Raises:
            ConfigError: If a field has a wrong type, is out of range or contradicts
                another.
        """
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ConfigError(one_line(error, cls.file, cls.section)) from None

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        return without_nulls(values, cls.nullable)


def without_nulls(values: Any, nullable: tuple[str, ...] = ()) -> Any:
    """Returns an object without its null fields, and anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    return {
        key: value
        for key, value in values.items()
        if value is not None or key in nullable
    }


def one_line(error: ValidationError, file: str, section: str = "") -> str:
    """Returns the first problem of a validation error as one line.

    Args:
        error: The error.
        file: The file's name.
        section: The part of the file that was validated; empty for all of it.
    """
    first = error.errors(include_url=False)[0]
    kind, message = first["type"], first["msg"]
    path = (section + "".join(map(_step, first["loc"]))).removeprefix(".")
    if kind == "value_error":
        # The message of a check across fields, which begins with a field's name.
        prefix = f"{path}." if path else ""
        return f"{file} contradicts itself: {prefix}{first['ctx']['error']}"
    if kind == "missing":
        return f"{file}: {path} is missing"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{file}: {path} is unknown"
    if kind == "dataclass_type":
        message = "Input should be an object"
    wanted = re.sub("^(Input|Tuple) should", "must", message)
    wanted = re.sub(" after validation.*", "", wanted).replace("valid tuple", "list")
    return f"{file}: {path or 'the file'} {wanted}, not {quoted(first['input'])}"


def _step(step: int | str) -> str:
    """Returns a step of a path to a value; keys that aren't names are quoted."""
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step.isidentifier() else f"[{quoted(step)}]"
