"""The checkpoint's configuration, read and checked.

Fields and defaults are those of transformers' ``configuration_mllama.py``.  Old
spellings (``rope_theta`` and ``rope_scaling``, ``torch_dtype``) are understood as
well as new ones (``rope_parameters``, ``dtype``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from mllama.config_fields import Section, is_integer, require
from mllama.errors import ConfigError

ARCHITECTURE = "MllamaForConditionalGeneration"
MODEL_TYPE = "mllama"

EXTRA_EMBEDDING_ROWS = 8
"""Rows of the embedding beyond the vocabulary of the head: the image token and
seven reserved ones."""

_PATCH_MULTIPLE = 8
"""The reference pads the patches of a tile to a multiple of this."""

_MOST_LAYERS = 1024
_MOST_TILES = 64
"""Bounds of the lists that are made from an untrusted file."""


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
                "num_hidden_layers", 40, most=_MOST_LAYERS
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
            hidden_act=_activation(section, "silu"),
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


def _activation(section: Section, supported: str) -> str:
    if section.get("hidden_act", supported) != supported:
        raise section.refusal("hidden_act", f"{supported!r}, the only one supported")
    return supported


_ASPECT_RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


@dataclass(frozen=True)
class MllamaVisionConfig:
    """The vision encoder.  Image and patch sizes are in pixels."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_global_layers: int
    attention_heads: int
    norm_eps: float
    num_channels: int
    image_size: int
    patch_size: int
    max_num_tiles: int
    intermediate_layers_indices: tuple[int, ...]
    supported_aspect_ratios: tuple[tuple[int, int], ...]
    vision_output_dim: int
    hidden_act: str

    @property
    def num_patches(self) -> int:
        """Patches of a tile, the class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def num_padding_patches(self) -> int:
        """Patches added to each tile, up to the next multiple of eight."""
        return -self.num_patches % _PATCH_MULTIPLE

    @property
    def padded_patches(self) -> int:
        """Patches of a tile with padding."""
        return self.num_patches + self.num_padding_patches

    @property
    def max_aspect_ratio_id(self) -> int:
        """The largest id; id 0 stands for no image."""
        return len(self.supported_aspect_ratios)

    @classmethod
    def from_dict(cls, values: Any) -> MllamaVisionConfig:
        """Reads ``vision_config``.

        Raises:
            ConfigError: If a field has a wrong type or contradicts another.
        """
        section = Section("vision_config", values)
        config = cls(
            hidden_size=section.integer("hidden_size", 1280),
            intermediate_size=section.integer("intermediate_size", 5120),
            num_hidden_layers=section.integer(
                "num_hidden_layers", 32, most=_MOST_LAYERS
            ),
            num_global_layers=section.integer(
                "num_global_layers", 8, most=_MOST_LAYERS
            ),
            attention_heads=section.integer(
                "attention_heads", section.integer("num_attention_heads", 16)
            ),
            norm_eps=section.number("norm_eps", 1e-5),
            num_channels=section.integer("num_channels", 3),
            image_size=section.integer("image_size", 448),
            patch_size=section.integer("patch_size", 14),
            max_num_tiles=section.integer("max_num_tiles", 4, most=_MOST_TILES),
            intermediate_layers_indices=section.integers(
                "intermediate_layers_indices", [3, 7, 15, 23, 30]
            ),
            supported_aspect_ratios=_aspect_ratios(section),
            vision_output_dim=section.integer("vision_output_dim", 7680),
            hidden_act=_activation(section, "gelu"),
        )
        indices = config.intermediate_layers_indices
        require(
            config.hidden_size % config.attention_heads == 0,
            f"vision_config.hidden_size {config.hidden_size} is no multiple of "
            f"attention_heads {config.attention_heads}",
        )
        require(
            all(0 <= index < config.num_hidden_layers for index in indices),
            f"vision_config.intermediate_layers_indices {list(indices)} must be below "
            f"num_hidden_layers {config.num_hidden_layers}",
        )
        require(
            config.vision_output_dim == config.hidden_size * (1 + len(indices)),
            f"vision_config.vision_output_dim {config.vision_output_dim} is not "
            f"hidden_size {config.hidden_size} times one plus the number of "
            f"intermediate layers {len(indices)}",
        )
        require(
            config.image_size % config.patch_size == 0,
            f"vision_config.image_size {config.image_size} is no multiple of "
            f"patch_size {config.patch_size}",
        )
        # The reference's slice of the padding is empty then, and masks everything.
        require(
            config.num_padding_patches > 0,
            f"vision_config.patch_size {config.patch_size} leaves no padding patch",
        )
        require(
            all(
                rows * columns <= config.max_num_tiles
                for rows, columns in config.supported_aspect_ratios
            ),
            "vision_config.supported_aspect_ratios have more tiles than max_num_tiles "
            f"{config.max_num_tiles}",
        )
        return config


def _aspect_ratios(section: Section) -> tuple[tuple[int, int], ...]:
    pairs = section.get("supported_aspect_ratios", _ASPECT_RATIOS)
    if (
        not isinstance(pairs, (list, tuple))
        or not pairs
        or not all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and all(is_integer(side) and side > 0 for side in pair)
            for pair in pairs
        )
    ):
        raise section.refusal(
            "supported_aspect_ratios", "a list of pairs of whole numbers above 0"
        )
    return tuple((rows, columns) for rows, columns in pairs)


@dataclass(frozen=True)
class MllamaConfig:
    """A whole checkpoint's configuration."""

    text_config: MllamaTextConfig
    vision_config: MllamaVisionConfig
    image_token_index: int
    dtype: str | None

    @classmethod
    def from_dict(cls, values: Any) -> MllamaConfig:
        """Reads the content of ``config.json``.

        Raises:
            ConfigError: If it describes another model, has a field of a wrong type or
                contradicts itself.
        """
        section = Section("", values)
        _require_mllama(section)
        text = MllamaTextConfig.from_dict(section.values.get("text_config"))
        vision = MllamaVisionConfig.from_dict(section.values.get("vision_config"))
        image_token_index = section.integer("image_token_index", 128256, least=0)
        require(
            image_token_index < text.num_embedding_rows,
            f"image_token_index {image_token_index} has no row among the "
            f"{text.num_embedding_rows} of the embedding",
        )
        dtype = section.text("dtype", section.text("torch_dtype", None))
        return cls(text, vision, image_token_index, dtype)

    @classmethod
    def from_path(cls, directory: str | PathLike[str]) -> MllamaConfig:
        """Reads ``config.json`` of a checkpoint.

        Raises:
            ConfigError: If it is missing, is no JSON, or as in :meth:`from_dict`.
        """
        path = Path(directory) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{directory} holds no config.json; give --model-path the directory "
                "of a checkpoint"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} can't be read: {error}") from error
        return cls.from_dict(values)


def _require_mllama(section: Section) -> None:
    """Refuses another model's config by its name."""
    architectures = section.get("architectures", [])
    model_type = section.get("model_type", "(none)")
    named = isinstance(architectures, list) and ARCHITECTURE in architectures
    if model_type == MODEL_TYPE and (named or not architectures):
        return
    if isinstance(architectures, list) and architectures and not named:
        found = f"{architectures[0]}"
    else:
        found = f"model of type {model_type}"
    raise ConfigError(f"this checkpoint is a {found}; mllama serves {ARCHITECTURE}")
