"""The body of ``POST /v1/moderations``."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, Tag

from mllama.server.bodies.schema import Body, Many, tag_of_type
from mllama.server.dialects.openai.content import ImagePart, PlainTextPart

MAX_TEXTS: Final = 1000
"""The most texts of one request."""

ModerationPart = Annotated[
    Annotated[PlainTextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image_url>")],
    Discriminator(
        tag_of_type,
        custom_error_type="part",
        custom_error_message=(
            "must be a part of type text or image_url (a list has texts only, or parts "
            "only)"
        ),
    ),
]


def _tag_of_input(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    return "<texts>" if value and isinstance(value[0], str) else "<parts>"


ModerationInput = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[Many[str], Field(max_length=MAX_TEXTS), Tag("<texts>")]
    | Annotated[Many[ModerationPart], Field(min_length=1), Tag("<parts>")],
    Discriminator(
        _tag_of_input,
        custom_error_type="input",
        custom_error_message="must be a text, a list of texts or a list of parts",
    ),
]


class ModerationBody(Body):
    """A request to judge texts, or a text with a picture."""

    input: ModerationInput = Field(
        description="A text, texts with a result each, or parts with one result"
    )
    model: str | None = Field(
        None, description="One of the served model's names, or of OpenAI's moderation"
    )
