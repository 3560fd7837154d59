"""The object ``options`` of Ollama's requests."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from mllama.server.bodies.schema import Body, Ignored, Refused, Stop

MAX_INTEGER: Final = 2**31 - 1
"""The largest number of tokens that can be named."""

_MACHINE: Final = Ignored("about the machine, which the server's own options describe")
_MIROSTAT: Final = Ignored("only `mirostat` reads it")
_OFF_AT_1: Final = [1, 1.0]


def _whole(value: Any) -> Any:
    """Returns an integer for a float without a fraction, which clients send."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Penalty = Annotated[float | None, Field(ge=-2, le=2)]


class OllamaOptions(Body):
    """How tokens are chosen, and how Ollama would run the model."""

    num_predict: Whole | None = Field(
        None,
        ge=-MAX_INTEGER,
        le=MAX_INTEGER,
        description="The longest answer in tokens; negative is no limit, and 0 only "
        "reads the prompt",
    )
    num_ctx: Annotated[
        Whole | None,
        Ignored(
            "the context is the server's `--max-length`; the log says once that a "
            "request asked for more"
        ),
    ] = Field(None, ge=0, le=MAX_INTEGER)
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy")
    top_k: Whole | None = Field(
        None, ge=-1, le=MAX_INTEGER, description="-1 and 0 are all tokens"
    )
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: Whole | None = Field(
        None,
        ge=-(2**63),
        le=2**63 - 1,
        description="Makes sampling repeatable; -1 is none",
    )
    stop: Stop | None = Field(
        None, description="Texts that end the answer; empty ones don't"
    )
    repeat_penalty: float | None = Field(None, gt=0, description="1 is none")
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repeat_last_n: Whole | None = Field(
        None,
        ge=-1,
        le=MAX_INTEGER,
        description="0 turns the penalties off. They count the whole text, as with "
        "-1: other values are refused beside a penalty",
    )
    mirostat: Annotated[
        Any, Refused("is not supported: use `top_p` or `min_p`", [0, 0.0])
    ] = None
    mirostat_eta: Annotated[Any, _MIROSTAT] = None
    mirostat_tau: Annotated[Any, _MIROSTAT] = None
    tfs_z: Annotated[
        Any, Refused("is not supported: use `top_p` or `min_p`", _OFF_AT_1)
    ] = None
    typical_p: Annotated[
        Any, Refused("is not supported: use `top_p` or `min_p`", _OFF_AT_1)
    ] = None
    penalize_newline: Annotated[
        Any, Refused("is not supported: penalties are for all tokens", [True])
    ] = None
    num_keep: Annotated[Any, Ignored("a context that is full is never shifted")] = None
    num_gpu: Annotated[Any, _MACHINE] = None
    main_gpu: Annotated[Any, _MACHINE] = None
    num_thread: Annotated[Any, _MACHINE] = None
    num_batch: Annotated[Any, _MACHINE] = None
    num_gqa: Annotated[Any, _MACHINE] = None
    use_mmap: Annotated[Any, _MACHINE] = None
    use_mlock: Annotated[Any, _MACHINE] = None
    low_vram: Annotated[Any, _MACHINE] = None
    f16_kv: Annotated[Any, _MACHINE] = None
    numa: Annotated[Any, _MACHINE] = None
    logits_all: Annotated[Any, _MACHINE] = None
    vocab_only: Annotated[Any, _MACHINE] = None
    embedding_only: Annotated[Any, _MACHINE] = None
    draft_num_predict: Annotated[Any, _MACHINE] = None

    def over(self, defaults: OllamaOptions) -> OllamaOptions:
        """Returns these options, with defaults for those that aren't given."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return defaults.model_copy(update=given)
