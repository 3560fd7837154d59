"""The field that asks for attention maps, an extension of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, Tag

from mllama.errors import RequestError
from mllama.requests.attention import AttentionOptions
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.bodies.schema import Body, Many, text_or
from mllama.server.capabilities import ServerCapabilities

_MOST: Final = 1024
"""The most layers or heads that can be named."""

_Number = Annotated[int, Field(ge=0, le=2**15)]
_Numbers = Annotated[Many[_Number], Field(min_length=1, max_length=_MOST)]
_Pair = Annotated[list[_Number], Field(min_length=2, max_length=2)]
_Pairs = Annotated[Many[_Pair], Field(min_length=1, max_length=_MOST)]


def _tag_of_heads(value: Any) -> str | None:
    """Returns the tag of a word, of a list of numbers, or of a list of pairs."""
    if isinstance(value, list):
        return "<pairs>" if value and isinstance(value[0], list) else "<numbers>"
    return "<text>" if isinstance(value, str) else None


class AttentionFields(Body):
    """Which attention maps an answer comes with."""

    layers: (
        Annotated[
            Annotated[str, Tag("<text>")] | Annotated[_Numbers, Tag("<numbers>")],
            text_or("<numbers>", list, '"all", "last" or a list of layers'),
        ]
        | None
    ) = Field(
        None,
        description='`"all"` (default) or `"last"` of the cross-attention layers, or '
        "their numbers",
    )
    heads: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[_Numbers, Tag("<numbers>")]
            | Annotated[_Pairs, Tag("<pairs>")],
            Discriminator(
                _tag_of_heads,
                custom_error_type="heads",
                custom_error_message='must be "localizing", "all", a list of heads or '
                "a list of pairs of a layer and a head",
            ),
        ]
        | None
    ) = Field(
        None,
        description='`"localizing"` (default), the head whose maps are the clearest; '
        '`"all"`; numbers of heads; or pairs of a layer and a head',
    )
    prompt: bool | None = Field(
        None, description="Whether the prompt's tokens have maps too"
    )


def attention_options(
    fields: AttentionFields | None, capabilities: ServerCapabilities
) -> AttentionOptions | None:
    """Returns the attention maps that a body asks for.

    Raises:
        RequestRejected: If the server makes none, or values are wrong.
    """
    if fields is None:
        return None
    if not capabilities.attention:
        raise RequestRejected(
            "`attention` needs a server started with `--attention`.",
            "attention",
            code="unsupported_parameter",
        )
    try:
        return AttentionOptions(**fields.model_dump(exclude_none=True))
    except RequestError as error:
        raise RequestRejected(f"{error}.", "attention", code="invalid_value") from error
