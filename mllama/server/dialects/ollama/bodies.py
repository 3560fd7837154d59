"""The bodies of Ollama's requests."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, Tag
from pydantic_core import PydanticCustomError

from mllama.requests.sampling_params import MAX_LOGPROBS
from mllama.server.bodies.schema import (
    Body,
    Ignored,
    Many,
    Refused,
    Tools,
    text_or,
)
from mllama.server.dialects.ollama.messages import OllamaMessage, OllamaTool
from mllama.server.dialects.ollama.options import OllamaOptions

_DURATION: Final = re.compile(
    r"[+-]?(?:0|(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|[uµ]s|ms|s|m|h))+)"
)
"""A duration in Go's form, such as ``1h30m``.

There is one reading of digits only, or many of them would hold the event loop."""

_NOT_CUT: Final = Ignored("a prompt that is too long is refused, and never cut")
_NO_PICTURES: Final = Refused("is not supported: the model can't draw")


def _duration(value: Any) -> Any:
    """Refuses what is no duration."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_text = isinstance(value, str) and _DURATION.fullmatch(value)
    if not is_number and not is_text:
        raise PydanticCustomError(
            "duration", 'must be a number of seconds, or a duration such as "5m"'
        )
    return value


def is_zero(duration: Any) -> bool:
    """Returns True for a valid duration that is no time at all."""
    if isinstance(duration, str):
        return not re.search("[1-9]", duration)
    return duration is not None and duration == 0


Format = Annotated[
    Annotated[Literal["", "json"], Tag("<text>")]
    | Annotated[dict[str, Any], Tag("<object>")],
    text_or("<object>", dict, '"json" or a JSON schema'),
]
"""The format of an answer."""


class OllamaFields(Body):
    """Fields of every request for an answer."""

    model: str = Field(description="One of the served model's names")
    stream: bool | None = Field(
        None, description="Whether lines of JSON are sent; true by default"
    )
    format: Format | None = Field(
        None,
        description='`"json"`, or a JSON schema that the answer fits; `""` is none',
    )
    options: OllamaOptions | None = None
    keep_alive: Annotated[
        Any,
        BeforeValidator(_duration),
        Ignored(
            "the model is loaded as long as the server runs; where there is nothing to "
            'answer, 0 makes the reason `"unload"`'
        ),
    ] = None
    think: Annotated[
        bool | str | None,
        Refused(
            "is not supported: this model doesn't think before it answers", [False]
        ),
    ] = None
    logprobs: bool | None = Field(
        None, description="Whether the answer has its tokens' log probabilities"
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Likeliest tokens in each place, beside `logprobs`",
    )
    truncate: Annotated[bool | None, _NOT_CUT] = None
    shift: Annotated[bool | None, _NOT_CUT] = None
    debug_render_only: Annotated[
        bool | None, Refused("is not supported: see `/tokenize`", [False])
    ] = Field(None, alias="_debug_render_only")

    @property
    def is_streamed(self) -> bool:
        """Returns True if the answer is a stream."""
        return self.stream is not False


class OllamaChatBody(OllamaFields):
    """A request to continue a conversation."""

    messages: Many[OllamaMessage] | None = Field(
        None, description="Without any there is no answer, as the model is loaded"
    )
    tools: Tools[OllamaTool] | None = Field(None, description="Described to the model")


class OllamaGenerateBody(OllamaFields):
    """A request to answer a prompt."""

    prompt: str | None = Field(
        None, description="Without one there is no answer, as the model is loaded"
    )
    images: Many[str] | None = Field(
        None, description="Base64, or URLs, of images, as in messages"
    )
    system: str | None = Field(None, description="A system prompt")
    raw: bool | None = Field(
        None,
        description="Whether the prompt goes to the model as it is, without the chat "
        "template",
    )
    suffix: Annotated[
        str | None,
        Refused("is not supported: the model can't fill in between texts", [""]),
    ] = None
    template: Annotated[
        str | None,
        Refused(
            "is not supported in requests: start the server with --chat-template "
            "FILE, or send `raw`",
            [""],
        ),
    ] = None
    context: Annotated[
        Any,
        Refused("is not supported: send the conversation to /api/chat", [[]]),
    ] = None
    width: Annotated[Any, _NO_PICTURES] = None
    height: Annotated[Any, _NO_PICTURES] = None
    steps: Annotated[Any, _NO_PICTURES] = None


class OllamaShowBody(Body):
    """A request to describe a model."""

    model: str | None = Field(None, description="One of the served model's names")
    name: str | None = Field(None, description="Older name of `model`")
    verbose: Annotated[bool | None, Ignored("token tables are never sent")] = None
    system: Annotated[str | None, Ignored("nothing is changed by it")] = None
    template: Annotated[str | None, Ignored("nothing is changed by it")] = None
    options: Annotated[dict[str, Any] | None, Ignored("nothing is changed by it")] = (
        None
    )
