"""Fields that keep an answer to a format: OpenAI's, and vLLM's of both generations."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from mllama.server.bodies.schema import (
    Body,
    Bookkeeping,
    Ignored,
    Many,
    Refused,
    text_or,
)

_ONE_ENGINE: Final = Ignored("there is one engine for all formats")
_WHITESPACE: Final = Refused(
    "is not supported: JSON has a space after commas and colons, and none elsewhere",
    [False],
)

Schema = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[dict[str, Any], Tag("<object>")],
    text_or("<object>", dict, "a JSON schema: an object, or its text"),
]
"""A JSON schema, which vLLM takes as text too."""


def _known_type(value: Any) -> Any:
    # What has the type of another format isn't read as this one.
    if value != "text":
        types = "'text', 'json_object' or 'json_schema'"
        raise PydanticCustomError("format_type", "must be {types}", {"types": types})
    return value


class TextFormat(Body):
    """Any text."""

    type: Annotated[Literal["text"], BeforeValidator(_known_type)]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema with a name."""

    name: Bookkeeping[str | None] = None
    description: Bookkeeping[str | None] = None
    schema_: dict[str, Any] = Field(
        alias="schema", description="The schema; see [Formats](#formats)"
    )
    strict: bool | None = Field(
        None, description="Whether objects have no properties that it doesn't name"
    )


class JsonSchemaFormat(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


def tag_of_format(value: Any) -> str:
    """Returns the tag of a format's type; one that isn't known is read as ``text``."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", "")
    return f"<{kind}>" if kind in ("json_object", "json_schema") else "<text>"


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")],
    Discriminator(tag_of_format),
]


class StructuredOutputs(Body):
    """vLLM's formats: exactly one."""

    json_: Schema | None = Field(None, alias="json", description="As `guided_json`")
    regex: str | None = Field(None, description="As `guided_regex`")
    choice: Many[str] | None = Field(None, description="As `guided_choice`")
    grammar: str | None = Field(None, description="As `guided_grammar`")
    json_object: bool | None = Field(None, description="Any JSON object")
    structural_tag: Annotated[
        Any, Refused("is not supported: use `json`, or `grammar`")
    ] = None
    disable_any_whitespace: Annotated[
        bool | None, Ignored("there is none beside the form's")
    ] = None
    disable_fallback: Annotated[bool | None, _ONE_ENGINE] = None
    disable_additional_properties: bool | None = Field(
        None, description="Whether objects have no properties that `json` doesn't name"
    )
    whitespace_pattern: Annotated[str | None, _WHITESPACE] = None


class FormatFields(Body):
    """Fields of requests for answers, at most one of which names a format."""

    response_format: ResponseFormat | None = Field(
        None, description="The format of the answer; see [Formats](#formats)"
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="vLLM's formats"
    )
    guided_json: Schema | None = Field(
        None, description="A JSON schema that the answer fits"
    )
    guided_regex: str | None = Field(
        None, description="A regular expression that matches the whole answer"
    )
    guided_choice: Many[str] | None = Field(
        None, description="Texts of which the answer is one"
    )
    guided_grammar: str | None = Field(
        None, description="A grammar of the answer, in Lark or GBNF"
    )
    guided_decoding_backend: Annotated[str | None, _ONE_ENGINE] = None
    guided_whitespace_pattern: Annotated[str | None, _WHITESPACE] = None
