"""The format of a response's text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mllama.requests.output_format import OutputFormat
from mllama.server.bodies.schema import Body, Bookkeeping, Refused
from mllama.server.dialects.openai.format_fields import (
    JsonObjectFormat,
    TextFormat,
    tag_of_format,
)


class ResponseSchemaFormat(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    name: Bookkeeping[str | None] = None
    description: Bookkeeping[str | None] = None
    schema_: dict[str, Any] = Field(
        alias="schema", description="The schema; see [Formats](api.md#formats)"
    )
    strict: bool | None = Field(
        None, description="Whether objects have no properties that it doesn't name"
    )


ResponseTextFormat = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[ResponseSchemaFormat, Tag("<json_schema>")],
    Discriminator(tag_of_format),
]


class ResponseTextConfig(Body):
    """What the text of an answer looks like."""

    format: ResponseTextFormat | None = Field(
        None, description="`text`, `json_object` or `json_schema`"
    )
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None,
        Refused("is not supported: ask for a short answer in words", ["medium"]),
    ] = None


def text_format(config: ResponseTextConfig | None) -> OutputFormat | None:
    """Returns the format that a request asks for; None is any text.

    Raises:
        RequestError: If the format is wrong.
    """
    value = config and config.format
    if isinstance(value, JsonObjectFormat):
        return OutputFormat.json_object(path="text.format")
    if isinstance(value, ResponseSchemaFormat):
        return OutputFormat.json_schema(
            value.schema_, strict=bool(value.strict), path="text.format.schema"
        )
    return None
