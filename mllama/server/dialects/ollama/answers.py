"""What Ollama's routes answer, as models: for the API's schema, and tests."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class OllamaAnswer(BaseModel):
    """An object of an answer's JSON."""

    model_config = ConfigDict(extra="forbid")


class OllamaTopLogprob(OllamaAnswer):
    """One of the likeliest tokens in a place."""

    token: str
    logprob: float
    bytes: list[int]


class OllamaLogprob(OllamaTopLogprob):
    """A token of an answer."""

    top_logprobs: list[OllamaTopLogprob] | None = None


class OllamaFunctionAnswer(OllamaAnswer):
    """A function and its arguments."""

    index: int
    name: str
    arguments: dict[str, Any]


class OllamaCallAnswer(OllamaAnswer):
    """A call of a tool."""

    id: str
    function: OllamaFunctionAnswer


class OllamaMessageAnswer(OllamaAnswer):
    """The model's message, or a piece of it."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[OllamaCallAnswer] | None = None


class OllamaAnswerFields(OllamaAnswer):
    """Fields of every answer, of which the last line has all. Times are nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[OllamaLogprob] | None = None


class OllamaChatAnswer(OllamaAnswerFields):
    """An answer to a conversation, or a line of it."""

    message: OllamaMessageAnswer


class OllamaGenerateAnswer(OllamaAnswerFields):
    """An answer to a prompt, or a line of it."""

    response: str


class OllamaVersionAnswer(OllamaAnswer):
    """The version of Ollama whose API this is."""

    version: str


class OllamaDetails(OllamaAnswer):
    """A model in short."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: int
    embedding_length: int


class OllamaModel(OllamaAnswer):
    """The served model."""

    name: str
    model: str
    size: int
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    details: OllamaDetails


class OllamaListedModel(OllamaModel):
    """The served model in the list of models."""

    modified_at: str
    capabilities: list[str]


class OllamaRunningModel(OllamaModel):
    """The served model in the list of loaded models."""

    expires_at: str
    size_vram: int
    context_length: int


class OllamaTagsAnswer(OllamaAnswer):
    """All models."""

    models: list[OllamaListedModel]


class OllamaProcessesAnswer(OllamaAnswer):
    """All loaded models."""

    models: list[OllamaRunningModel]


class OllamaShowAnswer(OllamaAnswer):
    """A description of the model."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    license: str | None = None
    system: str | None = None


class OllamaErrorAnswer(OllamaAnswer):
    """The answer to a request that fails."""

    error: str
