"""The configuration of the vision encoder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, Field, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from mllama.config.validation import (
    ConfigSection,
    Integer,
    LayerCount,
    PositiveNumber,
    Size,
)

_PATCH_MULTIPLE = 8
"""The reference pads the patches of a tile to a multiple of this."""

_MAX_TILES = 64
"""Bounds a list that is made from an untrusted file."""


@dataclass(frozen=True)
class MllamaVisionConfig(ConfigSection):
    """The vision encoder.  Image and patch sizes are in pixels."""

    section: ClassVar[str] = "vision_config"

    hidden_size: Size = 1280
    intermediate_size: Size = 5120
    num_hidden_layers: LayerCount = 32
    num_global_layers: LayerCount = 8
    attention_heads: Size = Field(
        default=16,
        validation_alias=AliasChoices("attention_heads", "num_attention_heads"),
    )
    norm_eps: PositiveNumber = 1e-5
    num_channels: Size = 3
    image_size: Size = 448
    patch_size: Size = 14
    max_num_tiles: Annotated[Size, Field(le=_MAX_TILES)] = 4
    intermediate_layers_indices: tuple[Integer, ...] = (3, 7, 15, 23, 30)
    supported_aspect_ratios: Annotated[
        tuple[tuple[Size, Size], ...], Field(min_length=1)
    ] = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
    vision_output_dim: Size = 7680
    hidden_act: Literal["gelu"] = "gelu"

    @property
    def num_patches(self) -> int:
        """Returns the number of patches of a tile, including the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def num_padding_patches(self) -> int:
        """Returns the number of patches that pad a tile to a multiple of eight."""
        return -self.num_patches % _PATCH_MULTIPLE

    @property
    def padded_patches(self) -> int:
        """Returns the number of patches of a tile, including padding."""
        return self.num_patches + self.num_padding_patches

    @property
    def max_aspect_ratio_id(self) -> int:
        """Returns the largest aspect ratio id; id 0 stands for no image."""
        return len(self.supported_aspect_ratios)

    @model_validator(mode="after")
    def _check(self) -> Self:
        indices = self.intermediate_layers_indices
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"attention_heads {self.attention_heads}"
            )
        if not all(0 <= index < self.num_hidden_layers for index in indices):
            raise ValueError(
                f"intermediate_layers_indices {list(indices)} must be below "
                f"num_hidden_layers {self.num_hidden_layers}"
            )
        if self.vision_output_dim != self.hidden_size * (1 + len(indices)):
            raise ValueError(
                f"vision_output_dim {self.vision_output_dim} is not hidden_size "
                f"{self.hidden_size} times one plus the number of intermediate "
                f"layers {len(indices)}"
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size "
                f"{self.patch_size}"
            )
        # The reference's slice of the padding is then empty, and masks everything.
        if not self.num_padding_patches:
            raise ValueError(f"patch_size {self.patch_size} leaves no padding patch")
        if any(
            rows * columns > self.max_num_tiles
            for rows, columns in self.supported_aspect_ratios
        ):
            raise ValueError(
                "supported_aspect_ratios have more tiles than max_num_tiles "
                f"{self.max_num_tiles}"
            )
        return self
