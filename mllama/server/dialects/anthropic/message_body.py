"""The bodies of ``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from mllama.server.bodies.schema import (
    Body,
    Bookkeeping,
    Ignored,
    Many,
    Refused,
    StopTexts,
    Tools,
)
from mllama.server.dialects.anthropic.content import CacheControl, Texts, Turn
from mllama.server.dialects.anthropic.tool_fields import AnyTool, AnyToolChoice

MAX_INTEGER: Final = 2**31 - 1
"""The largest number of tokens that can be named."""

_NO_REASONING: Final = "is not supported: this model doesn't reason before it answers"
_NOTHING_TO_LIMIT: Final = Ignored("this model doesn't reason before it answers")


class Thinking(Body):
    """Whether the model reasons before it answers; this one never does."""

    type: Annotated[
        str, Refused(_NO_REASONING, ["disabled", "adaptive", "between_tools"])
    ]
    budget_tokens: Annotated[int | None, _NOTHING_TO_LIMIT] = None
    display: Annotated[str | None, _NOTHING_TO_LIMIT] = None


class JsonOutput(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(
        alias="schema", description="The schema; see [Formats](api.md#formats)"
    )


class OutputConfig(Body):
    """What the answer looks like."""

    format: JsonOutput | None = Field(None, description="The format of the answer")
    effort: Annotated[str | None, Refused(_NO_REASONING, ["high"])] = None


class ContextEdit(Body):
    """A change of the conversation before the model sees it."""

    type: Annotated[
        str,
        Refused(
            "is not supported: the server leaves out no part of a conversation but "
            "reasoning",
            ["clear_thinking_20251015"],
        ),
    ]
    keep: Annotated[Any, Ignored("the model isn't shown earlier reasoning")] = None


class ContextManagement(Body):
    """Changes of the conversation before the model sees it."""

    edits: Many[ContextEdit] | None = None


class PromptBody(Body):
    """Fields that make a prompt."""

    model: str | None = Field(None, description="One of the served model's names")
    messages: Annotated[Many[Turn], Field(min_length=1)]
    system: Texts | None = Field(None, description="Instructions before the messages")
    tools: Tools[AnyTool] | None = Field(None, description="Described to the model")
    tool_choice: AnyToolChoice | None = Field(
        None, description="Whether the answer may or must call tools, and which"
    )
    output_config: OutputConfig | None = None
    output_format: JsonOutput | None = Field(
        None, description="Earlier name of `output_config.format`"
    )
    thinking: Thinking | None = None
    context_management: ContextManagement | None = None
    cache_control: CacheControl = None
    speed: Annotated[
        str | None, Refused("is not supported: there is one speed", ["standard"])
    ] = None
    mcp_servers: Annotated[
        Many[Any] | None, Refused("is not supported: the server runs no tools", [[]])
    ] = None


class CountTokensBody(PromptBody):
    """A request for the number of a prompt's tokens."""


class MessageBody(PromptBody):
    """A request for the next message of a conversation."""

    max_tokens: int = Field(
        ge=0,
        le=MAX_INTEGER,
        description="The longest answer in tokens; 0 only reads the prompt",
    )
    stream: bool | None = Field(None, description="Whether the answer comes as events")
    stop_sequences: StopTexts | None = Field(
        None, description="Texts that end the answer; empty ones don't"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(
        None, ge=-1, le=MAX_INTEGER, description="-1 and 0 are all tokens"
    )
    metadata: Bookkeeping[dict[str, Any] | None] = None
    service_tier: Annotated[str | None, Ignored("there is one tier")] = None
    diagnostics: Annotated[
        dict[str, Any] | None, Ignored("the server keeps no earlier requests")
    ] = None
    container: Annotated[Any, Refused("is not supported: the server runs no code")] = (
        None
    )
    inference_geo: Annotated[
        str | None, Refused("is not supported: the server is where it is")
    ] = None
    thread: Annotated[
        Any,
        Refused("is not supported: the server keeps no messages; send all of them"),
    ] = None
    compaction: Annotated[
        Any, Refused("is not supported: the server shortens no conversation")
    ] = None
    fallbacks: Annotated[
        Any, Refused("is not supported: the server has one model", [[]])
    ] = None
