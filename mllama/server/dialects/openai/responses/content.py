"""Parts of the content of a response's input."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from mllama.server.bodies.schema import (
    MAX_TOKEN_IDS,
    Body,
    Bookkeeping,
    Ignored,
    Many,
    Refused,
    TextOrParts,
    tag_of_type,
)
from mllama.server.dialects.openai.content import CacheHint

_FILE: Final = Refused(
    "is a file, which the model can't read: send its text, or pictures of its pages"
)
_IMAGE_OF_A_TOOL: Final = Refused(
    "is an image, for which a tool's result has no place in the prompt: send it in a "
    "message of the user that follows"
)


class InputText(Body):
    """A text of the input."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: CacheHint = None


class InputImage(Body):
    """An image of the input."""

    type: Literal["input_image"]
    file_id: Annotated[
        str | None,
        Refused("is not supported: the server keeps no files; send an `image_url`"),
    ] = None
    image_url: str = Field(
        description="`http:`, `https:` or `data:` URL, or base64 without a prefix"
    )
    detail: Annotated[
        Literal["auto", "low", "high", "original"] | None,
        Ignored("the model sees every image in the same way"),
    ] = None
    prompt_cache_breakpoint: CacheHint = None


class OutputTextPart(Body):
    """A text of an earlier answer, in the form in which the server gave it."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[Many[Any] | None, Ignored("the text has them")] = None
    logprobs: Bookkeeping[
        Annotated[Many[Any], Field(max_length=MAX_TOKEN_IDS)] | None
    ] = None
    parsed: Annotated[Any, Ignored("OpenAI's SDK puts the parsed JSON here")] = None


class OutputRefusalPart(Body):
    """What the assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class OutputReasoningPart(Body):
    """What another model thought, which the prompt leaves out."""

    type: Literal["reasoning_text"]
    text: str


def _part_of(types: str) -> Discriminator:
    return Discriminator(
        tag_of_type,
        custom_error_type="part",
        custom_error_message=f"must be a part of type {types}",
    )


InputPart = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[InputImage, Tag("<input_image>")]
    | Annotated[Any, _FILE, Tag("<input_file>")],
    _part_of("input_text or input_image"),
]
"""A part of a user's message."""

TextPart = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[Any, _FILE, Tag("<input_file>")],
    _part_of("input_text"),
]
"""A part of instructions."""

ResultPart = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[Any, _IMAGE_OF_A_TOOL, Tag("<input_image>")]
    | Annotated[Any, _FILE, Tag("<input_file>")],
    _part_of("input_text"),
]
"""A part of the result of a tool."""

OutputPart = Annotated[
    Annotated[OutputTextPart, Tag("<output_text>")]
    | Annotated[OutputRefusalPart, Tag("<refusal>")]
    | Annotated[OutputReasoningPart, Tag("<reasoning_text>")],
    _part_of("output_text, refusal or reasoning_text"),
]
"""A part of an earlier answer."""

InputContent = TextOrParts[InputPart]
TextContent = TextOrParts[TextPart]
ResultContent = TextOrParts[ResultPart]
OutputContent = TextOrParts[OutputPart]
