"""The configuration of the text decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AliasChoices,
    AliasPath,
    BeforeValidator,
    Field,
    StrictBool,
    model_validator,
)
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from mllama.config.validation import (
    ConfigSection,
    Integer,
    LayerCount,
    PositiveNumber,
    Size,
    TokenId,
    without_nulls,
)

NUM_EXTRA_EMBEDDINGS = 8
"""Embeddings beyond the vocabulary of the head: the image token and seven reserved
tokens."""


@dataclass(frozen=True)
class Llama3RopeScaling(ConfigSection):
    """The frequency scaling of Llama 3.1, published as rope type ``llama3``."""

    factor: PositiveNumber = 8.0
    low_freq_factor: PositiveNumber = 1.0
    high_freq_factor: PositiveNumber = 4.0
    original_max_position_embeddings: Size = 8192
    # Checked, but not stored.
    rope_type: InitVar[Literal["llama3", "default"]] = Field(
        default="llama3", validation_alias=AliasChoices("rope_type", "type")
    )


def _read_rope_scaling(value: Any) -> Any:
    """Returns None for the rope type ``default``, which doesn't scale."""
    if isinstance(value, Mapping):
        given = without_nulls(value)
        kind = given.get("rope_type", given.get("type", "default"))
        return None if kind == "default" else given
    return value


def _read_token_ids(value: Any) -> Any:
    """Returns one token id or a list of them as a list; it is empty for null."""
    if value is None:
        return []
    return value if isinstance(value, (list, tuple)) else [value]


def _read_token_id(value: Any) -> Any:
    """Returns the first token id, or None if there is none."""
    return next(iter(_read_token_ids(value)), None)


@dataclass(frozen=True)
class MllamaTextConfig(ConfigSection):
    """The text decoder.  Sizes are in elements, ``cross_attention_layers`` indices."""

    section: ClassVar[str] = "text_config"
    nullable: ClassVar[tuple[str, ...]] = ("pad_token_id", "eos_token_id")

    vocab_size: Size = 128256
    hidden_size: Size = 4096
    intermediate_size: Size = 14336
    num_hidden_layers: LayerCount = 40
    num_attention_heads: Size = 32
    num_key_value_heads: Size = 8
    cross_attention_layers: tuple[Integer, ...] = (3, 8, 13, 18, 23, 28, 33, 38)
    rms_norm_eps: PositiveNumber = 1e-5
    rope_theta: PositiveNumber = Field(
        default=500000.0,
        validation_alias=AliasChoices(
            AliasPath("rope_parameters", "rope_theta"), "rope_theta"
        ),
    )
    rope_scaling: Annotated[
        Llama3RopeScaling | None, BeforeValidator(_read_rope_scaling)
    ] = Field(
        default=None, validation_alias=AliasChoices("rope_parameters", "rope_scaling")
    )
    max_position_embeddings: Size = 131072
    hidden_act: Literal["silu"] = "silu"
    tie_word_embeddings: StrictBool = False
    pad_token_id: Annotated[TokenId | None, BeforeValidator(_read_token_id)] = 128004
    bos_token_id: TokenId = 128000
    eos_token_id: Annotated[tuple[TokenId, ...], BeforeValidator(_read_token_ids)] = (
        128001,
    )

    @property
    def head_dim(self) -> int:
        """Returns the width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_embeddings(self) -> int:
        """Returns the number of embeddings: the vocabulary and the extra ones."""
        return self.vocab_size + NUM_EXTRA_EMBEDDINGS

    @model_validator(mode="before")
    @classmethod
    def _drop_null_theta(cls, values: Any) -> Any:
        """Drops nulls of ``rope_parameters``, so that ``rope_theta`` counts instead."""
        if isinstance(values, dict) and "rope_parameters" in values:
            rope = without_nulls(values["rope_parameters"])
            return {**values, "rope_parameters": rope}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        layers = self.cross_attention_layers
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if len(set(layers)) < len(layers) or not all(
            0 <= layer < self.num_hidden_layers for layer in layers
        ):
            raise ValueError(
                f"cross_attention_layers {list(layers)} must be distinct and below "
                f"num_hidden_layers {self.num_hidden_layers}"
            )
        if not 0 < len(layers) < self.num_hidden_layers:
            raise ValueError(
                "cross_attention_layers must have at least one layer, and leave at "
                "least one for self-attention"
            )
        return self
