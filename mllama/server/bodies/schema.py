"""The base of all bodies, and markers of fields that have no effect or are refused.

A body is strict: numbers are numbers, unknown keys are refused at every level, and null
means that a field isn't given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

REFUSED = "refused"
"""The type of the error that a refused field raises."""

_MOST_KEYS: Final = 1000
"""Each unknown key would be an error of its own."""

MAX_ENTRIES: Final = 4096
"""The most entries of a list, unless its field says otherwise."""

MAX_TOKEN_IDS: Final = 2**18
"""The most token ids of a list."""

MAX_TOOLS: Final = 512
"""The most tools of a request."""

MAX_STOPS: Final = 64
"""The most texts that end an answer: each token is compared with all of them."""

MAX_STOP_CHARACTERS: Final = 1000
"""The longest text that ends an answer."""

T = TypeVar("T")


class Body(BaseModel):
    """An object of a request's JSON."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """Removes keys whose value is null."""
        if isinstance(value, dict) and len(value) > _MOST_KEYS:
            raise PydanticCustomError("keys", "must have fewer keys")
        if isinstance(value, dict) and None in value.values():
            return {key: each for key, each in value.items() if each is not None}
        return value


@dataclass(frozen=True)
class Ignored:
    """Marks a field that has no effect on an answer.

    Attributes:
        reason: Why it has none.
    """

    reason: str = "only keeps books"

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Returns the field's schema with the reason."""
        return {**handler(schema), "description": f"Has no effect: {self.reason}"}


@dataclass(frozen=True)
class Refused:
    """Marks a field that is refused, because it would change the answer.

    Attributes:
        message: What the error says after the field's name.
        unless: Values that ask for nothing, which pass.
    """

    message: str
    unless: Sequence[Any] = ()

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Returns a schema that accepts the harmless values only."""
        return core_schema.no_info_plain_validator_function(
            self._check, json_schema_input_schema=handler(source)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Returns the schema of the harmless values, with the reason."""
        return {"enum": [None, *self.unless], "description": self.text}

    def _check(self, value: Any) -> Any:
        # 0 and False are different values, and so are 1 and True.
        if any(value == each and type(value) is type(each) for each in self.unless):
            return value
        raise PydanticCustomError(REFUSED, "{message}", {"message": self.text})

    @property
    def text(self) -> str:
        """Returns the message with the values that pass."""
        if not self.unless:
            return self.message
        values = " or ".join(f"`{json.dumps(each)}`" for each in self.unless)
        return f"{self.message}; accepted: {values}"


@dataclass(frozen=True)
class _BoundedList:
    """Has a list validated up to its first error, as pydantic's ``FailFast``, which
    can't be part of a union, and limits its length."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Returns the list's schema with the setting."""
        schema = handler(source)
        assert schema["type"] == "list"
        return {**schema, "fail_fast": True, "max_length": MAX_ENTRIES}


Many = Annotated[list[T], _BoundedList()]
"""A list of at most ``MAX_ENTRIES``, or of the ``max_length`` of its field.

Only its first wrong entry is reported, however many there are."""

StopTexts = Annotated[
    Many[Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]],
    Field(max_length=MAX_STOPS),
]
"""Texts that end an answer."""

Tools = Annotated[Many[T], Field(max_length=MAX_TOOLS)]
"""The tools of a request."""

Bookkeeping = Annotated[T, Ignored()]
"""A field by which a client or OpenAI's service keeps books."""


def tag_of_type(value: Any) -> str | None:
    """Returns the tag of an object in a union: its ``type`` in brackets."""
    kind = (
        value.get("type")
        if isinstance(value, Mapping)
        else getattr(value, "type", None)
    )
    return f"<{kind}>" if isinstance(kind, str) else None


def tag_of_choice(choice: Any) -> str | None:
    """Returns the tag of a word, or of an object by its ``type``."""
    return "<text>" if isinstance(choice, str) else tag_of_type(choice)


def text_or(tag: str, kind: type, what: str) -> Discriminator:
    """Returns how a string is told from a value of another kind.

    Args:
        tag: The tag of the other kind; a string has ``<text>``.
        kind: The other kind.
        what: What the value is, for an error if it is neither.
    """

    def tag_of(value: Any) -> str | None:
        return (
            "<text>"
            if isinstance(value, str)
            else tag
            if isinstance(value, kind)
            else None
        )

    return Discriminator(
        tag_of, custom_error_type="text_or", custom_error_message=f"must be {what}"
    )


TextOrParts = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Many[T], Tag("<parts>")],
    text_or("<parts>", list, "a string or a list of parts"),
]
"""A content: a text, or a list of parts of a type."""

Stop = Annotated[
    Annotated[str, Field(max_length=MAX_STOP_CHARACTERS), Tag("<text>")]
    | Annotated[StopTexts, Tag("<texts>")],
    text_or("<texts>", list, "a string or a list of strings"),
]
"""A text that ends an answer, or several."""
