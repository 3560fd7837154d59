"""Where the patches of an image's tiles are in the picture.

A picture is resized and split into tiles, with padding to its right and below it
(:mod:`mllama.images.preprocess`).  The vision encoder makes a class token and a square
of patches of each tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mllama.config import MllamaVisionConfig

if TYPE_CHECKING:
    # It loads transformers.
    from mllama.images.preprocess import ImageTiles


@dataclass(frozen=True)
class PatchGrid:
    """The patches of a picture, put together from its tiles.

    Patches that show nothing but padding are not part of the grid.

    Attributes:
        tile_rows: Rows of tiles.
        tile_columns: Columns of tiles.
        patches: Patches along each side of a tile.
        rows: Rows of patches that show a part of the picture.
        columns: Columns of patches that do.
        width: Width of the picture as people see it, in pixels.
        height: Its height.
        covered_width: Width of the grid in pixels of the picture.  The last column may
            extend into the padding, so that it can be greater than the picture's.
        covered_height: Height of the grid.
    """

    tile_rows: int
    tile_columns: int
    patches: int
    rows: int
    columns: int
    width: int
    height: int
    covered_width: float
    covered_height: float

    @classmethod
    def of(cls, tiles: ImageTiles, config: MllamaVisionConfig) -> PatchGrid:
        """Returns the grid of an image.

        Args:
            tiles: The image.
            config: The vision encoder's configuration.
        """
        patch = config.patch_size
        columns, rows = (-(-side // patch) for side in tiles.resized_size)
        width, height = tiles.picture_size
        resized_width, resized_height = tiles.resized_size
        return cls(
            tile_rows=tiles.arrangement[0],
            tile_columns=tiles.arrangement[1],
            patches=config.image_size // patch,
            rows=rows,
            columns=columns,
            width=width,
            height=height,
            covered_width=columns * patch * width / resized_width,
            covered_height=rows * patch * height / resized_height,
        )

    @property
    def image_tokens(self) -> int:
        """Returns the number of image tokens: patches and class tokens."""
        return self.tile_rows * self.tile_columns * (1 + self.patches**2)

    def split(self, values: npt.NDArray[Any]) -> SplitValues:
        """Separates values of image tokens into the picture, padding, class tokens.

        Args:
            values: ``[..., image tokens]``, in the order of the image cache.
        """
        lead = values.shape[:-1]
        by_tile = values.reshape(*lead, self.tile_rows, self.tile_columns, -1)
        class_tokens = by_tile[..., 0].sum(axis=(-2, -1))
        side = self.patches
        canvas = np.moveaxis(
            by_tile[..., 1:].reshape(
                *lead, self.tile_rows, self.tile_columns, side, side
            ),
            -3,
            -2,
        ).reshape(*lead, self.tile_rows * side, self.tile_columns * side)
        picture = canvas[..., : self.rows, : self.columns]
        padding = canvas.sum(axis=(-2, -1)) - picture.sum(axis=(-2, -1))
        return SplitValues(np.ascontiguousarray(picture), class_tokens, padding)

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom of a patch in the picture, in pixels."""
        width = self.covered_width / self.columns
        height = self.covered_height / self.rows
        left, top = column * width, row * height
        return left, top, left + width, top + height


@dataclass(frozen=True)
class SplitValues:
    """Values of an image's tokens.

    Attributes:
        picture: ``[..., rows, columns]``, those of the patches that show the picture.
        class_tokens: ``[...]``, the sum of those of the class tokens.
        padding: ``[...]``, the sum of those of patches that show padding only.
    """

    picture: npt.NDArray[Any]
    class_tokens: npt.NDArray[Any]
    padding: npt.NDArray[Any]
