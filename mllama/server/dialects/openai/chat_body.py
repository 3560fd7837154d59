"""The body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from mllama.requests.sampling_params import MAX_LOGPROBS
from mllama.server.bodies.schema import Body, Ignored, Many, Refused, Tools
from mllama.server.dialects.openai.attention_fields import AttentionFields
from mllama.server.dialects.openai.content import Message
from mllama.server.dialects.openai.sampling_fields import (
    MAX_INTEGER,
    GenerationFields,
)
from mllama.server.dialects.openai.tool_fields import Tool, ToolChoice

_NO_REASONING: Final = "is not supported: this model doesn't reason before it answers"


class PromptFields(Body):
    """Fields that make the prompt of a chat."""

    messages: Annotated[Many[Message], Field(min_length=1)]
    tools: Tools[Tool] | None = Field(None, description="Described to the model")
    tool_choice: ToolChoice | None = Field(
        None, description="Whether the answer may or must call tools, and which"
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the chat template, as plain data"
    )
    add_generation_prompt: bool | None = Field(
        None, description="Whether the prompt ends in the header of the answer's turn"
    )
    continue_final_message: bool | None = Field(
        None, description="Whether the answer goes on with the last message"
    )
    chat_template: Annotated[
        str | None,
        Refused(
            "is not supported in requests: a template is code that runs in the server; "
            "start it with --chat-template FILE"
        ),
    ] = None


class ChatBody(GenerationFields, PromptFields):
    """A request to continue a conversation."""

    max_tokens: int | None = Field(
        None, ge=1, le=MAX_INTEGER, description="The longest answer in tokens"
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_INTEGER, description="OpenAI's newer name of `max_tokens`"
    )
    logprobs: bool | None = Field(
        None, description="Whether the answer has its tokens' log probabilities"
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Likeliest tokens in each place; 0 is none beside the token",
    )
    echo: bool | None = Field(
        None, description="Whether an answer that goes on with a message repeats it"
    )
    parallel_tool_calls: bool | None = Field(
        None, description="False ends the answer after its first call"
    )
    attention: AttentionFields | None = Field(
        None,
        description="Where the words of the answer looked; see "
        "[attention.md](attention.md#from-the-server)",
    )
    modalities: Annotated[
        Many[str] | None,
        Refused("is not supported: the model writes text only", [["text"]]),
    ] = None
    reasoning_effort: Annotated[
        str | None, Refused(_NO_REASONING, ["none", "medium"])
    ] = None
    verbosity: Annotated[
        str | None,
        Refused("is not supported: ask for a short answer in words", ["medium"]),
    ] = None
    prediction: Annotated[
        dict[str, Any] | None, Ignored("only a hint that makes answers faster")
    ] = None
    functions: Annotated[
        Many[Any] | None, Refused("is not supported: use `tools`, its successor", [[]])
    ] = None
    function_call: Annotated[
        Any,
        Refused("is not supported: use `tool_choice`, its successor", ["none", "auto"]),
    ] = None
    audio: Annotated[Any, Refused("is not supported: the model can't speak")] = None
    moderation: Annotated[
        Any, Refused("is not supported: the server moderates no answers")
    ] = None
    web_search_options: Annotated[
        Any, Refused("is not supported: the server searches nothing")
    ] = None
