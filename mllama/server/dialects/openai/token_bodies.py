"""Bodies of ``/tokenize`` and ``/detokenize``, in vLLM's form."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mllama.server.bodies.schema import Body, Refused
from mllama.server.dialects.openai.chat_body import PromptFields
from mllama.server.dialects.openai.sampling_fields import TokenIds


class TokenizeTextBody(Body):
    """A request for the tokens of a text."""

    model: str | None = Field(None, description="One of the served model's names")
    prompt: str
    add_special_tokens: bool | None = Field(
        None, description="Whether the text begins as a prompt does; true by default"
    )
    return_token_strs: bool | None = Field(
        None, description="Whether the answer has the tokens' texts"
    )


class TokenizeChatBody(PromptFields):
    """A request for the tokens of a conversation."""

    model: str | None = Field(None, description="One of the served model's names")
    add_special_tokens: Annotated[
        bool | None,
        Refused("is not supported: the chat template has all special tokens", [False]),
    ] = None
    return_token_strs: bool | None = Field(
        None, description="Whether the answer has the tokens' texts"
    )


class DetokenizeBody(Body):
    """A request for the text of tokens."""

    model: str | None = Field(None, description="One of the served model's names")
    tokens: TokenIds
