"""The vision side of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mllama.config.fields import MOST_LAYERS, Section, activation, is_integer, require

_PATCH_MULTIPLE = 8
"""The reference pads the patches of a tile to a multiple of this."""

_MOST_TILES = 64
"""Bounds a list that is made from an untrusted file."""

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
                "num_hidden_layers", 32, most=MOST_LAYERS
            ),
            num_global_layers=section.integer("num_global_layers", 8, most=MOST_LAYERS),
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
            hidden_act=activation(section, "gelu"),
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
