"""The text side of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mllama.config.fields import MOST_LAYERS, Section, activation, require

EXTRA_EMBEDDING_ROWS = 8
"""Rows of the embedding beyond the vocabulary of the head: the image token and
seven reserved ones."""


@dataclass(frozen=True)
class Llama3RopeScaling:
    """The frequency scaling of Llama 3.1, published as rope type ``llama3``."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class MllamaTextConfig:
    """The decoder.  Sizes are in elements, ``cross_attention_layers`` are indices."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    cross_attention_layers: tuple[int, ...]
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3RopeScaling | None
    max_position_embeddings: int
    hidden_act: str
    tie_word_embeddings: bool
    pad_token_id: int | None
    bos_token_id: int
    eos_token_id: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_embedding_rows(self) -> int:
        """Rows of the token embedding: the head's vocabulary and the extra rows."""
        return self.vocab_size + EXTRA_EMBEDDING_ROWS

    @property
    def num_cross_attention_layers(self) -> int:
        """Layers that look at images; the others keep the KV cache."""
        return len(self.cross_attention_layers)

    @classmethod
    def from_dict(cls, values: Any) -> MllamaTextConfig:
        """Reads ``text_config``.

        Raises:
            ConfigError: If a field has a wrong type or contradicts another.
        """
        section = Section("text_config", values)
        theta, scaling = _rope(section)
        config = cls(
            vocab_size=section.integer("vocab_size", 128256),
            hidden_size=section.integer("hidden_size", 4096),
            intermediate_size=section.integer("intermediate_size", 14336),
            num_hidden_layers=section.integer(
                "num_hidden_layers", 40, most=MOST_LAYERS
            ),
            num_attention_heads=section.integer("num_attention_heads", 32),
            num_key_value_heads=section.integer("num_key_value_heads", 8),
            cross_attention_layers=section.integers(
                "cross_attention_layers", [3, 8, 13, 18, 23, 28, 33, 38]
            ),
            rms_norm_eps=section.number("rms_norm_eps", 1e-5),
            rope_theta=theta,
            rope_scaling=scaling,
            max_position_embeddings=section.integer("max_position_embeddings", 131072),
            hidden_act=activation(section, "silu"),
            tie_word_embeddings=section.flag("tie_word_embeddings", False),
            pad_token_id=next(iter(section.token_ids("pad_token_id", 128004)), None),
            bos_token_id=section.integer("bos_token_id", 128000, least=0),
            eos_token_id=section.token_ids("eos_token_id", 128001),
        )
        require(
            config.hidden_size % config.num_attention_heads == 0,
            f"text_config.hidden_size {config.hidden_size} is no multiple of "
            f"num_attention_heads {config.num_attention_heads}",
        )
        require(
            config.num_attention_heads % config.num_key_value_heads == 0,
            f"text_config.num_attention_heads {config.num_attention_heads} is no "
            f"multiple of num_key_value_heads {config.num_key_value_heads}",
        )
        layers = config.cross_attention_layers
        require(
            len(set(layers)) == len(layers)
            and all(0 <= layer < config.num_hidden_layers for layer in layers),
            f"text_config.cross_attention_layers {list(layers)} must be distinct and "
            f"below num_hidden_layers {config.num_hidden_layers}",
        )
        require(
            0 < len(layers) < config.num_hidden_layers,
            "text_config needs at least one cross-attention and one self-attention "
            "layer",
        )
        return config


def _rope(section: Section) -> tuple[float, Llama3RopeScaling | None]:
    """Base and scaling of the rotary embedding, in either spelling."""
    if section.get("rope_parameters") is not None:
        name = "text_config.rope_parameters"
        scaling = Section(name, section.get("rope_parameters"))
        theta = scaling.number("rope_theta", section.number("rope_theta", 500000.0))
    else:
        scaling = Section("text_config.rope_scaling", section.get("rope_scaling"))
        theta = section.number("rope_theta", 500000.0)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise scaling.refusal(
            "rope_type" if scaling.get("rope_type") is not None else "type",
            "'llama3' or 'default', the rope types that are supported",
        )
    return theta, Llama3RopeScaling(
        factor=scaling.number("factor", 8.0),
        low_freq_factor=scaling.number("low_freq_factor", 1.0),
        high_freq_factor=scaling.number("high_freq_factor", 4.0),
        original_max_position_embeddings=scaling.integer(
            "original_max_position_embeddings", 8192
        ),
    )
