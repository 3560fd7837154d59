"""What the server answers, as models: the schema of ``/openapi.json``, and tests.

Routes write answers of these forms as dictionaries, and chunks of a stream as text,
because a model for every token would cost more than the rest of a chunk.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An object of an answer's JSON."""

    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(Answer):
    """Parts of the prompt's tokens."""

    cached_tokens: int
    image_tokens: int


class Usage(Answer):
    """The tokens of a request, those of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Answer):
    """One of the likeliest tokens in a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log probabilities of a message."""

    content: list[TokenLogprob]
    refusal: None = None


class FunctionCall(Answer):
    """A function and its arguments, a JSON object as text."""

    name: str
    arguments: str


class MessageToolCall(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Answer):
    """The model's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[MessageToolCall] | None = None


class AttentionToken(Answer):
    """A token that has maps."""

    id: int
    text: str
    prompt: bool


class AttentionWord(Answer):
    """A word: its first token and one past its last, and the token whose map it has."""

    text: str
    prompt: bool
    tokens: list[int]
    map_of_token: int


class AttentionImage(Answer):
    """The maps of all tokens in an image, numbers in base64."""

    width: int
    height: int
    rectangle: list[float]
    shape: list[int]
    scale: str
    maps: str
    class_tokens: str
    padding: str


class AttentionError(Answer):
    """Why an answer has no maps."""

    message: str


class ChatAttention(Answer):
    """Where the words of an answer looked, or why that isn't known."""

    heads: list[list[int]] | None = None
    tokens: list[AttentionToken] | None = None
    words: list[AttentionWord] | None = None
    images: list[AttentionImage] | None = None
    error: AttentionError | None = None


class ChatChoice(Answer):
    """An answer to a conversation."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    attention: ChatAttention | None = None


class PromptLogprob(Answer):
    """A token in a place of the prompt."""

    logprob: float
    decoded_token: str


class ChatCompletion(Answer):
    """All answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: None = None
    system_fingerprint: str
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class FunctionCallDelta(Answer):
    """A call's name, which comes first, or a piece of its arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(Answer):
    """What a chunk adds to a call of a tool."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChatDelta(Answer):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Answer):
    """A piece of an answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    attention: ChatAttention | None = None


class ChatCompletionChunk(Answer):
    """An event of a chat's stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Answer):
    """Log probabilities of a text, an entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """An answer to a prompt, or a piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class Completion(Answer):
    """All answers to all prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(CompletionChoice):
    """A piece of an answer."""

    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]


class CompletionChunk(Completion):
    """An event of a completion's stream."""

    choices: list[CompletionChunkChoice]  # type: ignore[assignment]
    usage: Usage | None = None  # type: ignore[assignment]


class Model(Answer):
    """The served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = None
    attention: bool = False


class ModelList(Answer):
    """All served models."""

    object: Literal["list"]
    data: list[Model]


class Tokenized(Answer):
    """The tokens of a prompt."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(Answer):
    """The text of tokens."""

    prompt: str


class Error(Answer):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """The answer to a request that fails."""

    error: Error
