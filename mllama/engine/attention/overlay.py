"""A map over its picture."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mllama.images.patch_grid import PatchGrid

COLORS: Final = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)
"""Eight steps of Matplotlib's color map "inferno", from no attention to the most."""

_OPACITY: Final = 0.72
"""Of the colors over the picture."""

Array = npt.NDArray[np.float32]


def heat(values: Array, grid: PatchGrid, size: tuple[int, int]) -> Array:
    """Returns a map in the size of its picture, from 0 to 1.

    Args:
        values: ``[rows, columns]``.
        grid: The image's patches.
        size: Width and height to return, in the picture's proportions.

    Returns:
        float32 ``[height, width]``; all 0 for a map of zeros.
    """
    width, height = size
    highest = float(values.max(initial=0))
    if highest <= 0:
        return np.zeros((height, width), np.float32)
    scaled = Image.fromarray((values / highest).astype(np.float32))
    # The last row and column of patches may extend into the padding.
    covered = scaled.resize(
        (width, height),
        Image.Resampling.BICUBIC,
        box=(
            0,
            0,
            grid.columns * grid.width / grid.covered_width,
            grid.rows * grid.height / grid.covered_height,
        ),
    )
    return np.clip(np.asarray(covered, np.float32), 0, 1)


def colored(values: Array) -> npt.NDArray[np.float32]:
    """Returns colors ``[..., 3]`` from 0 to 255 of values from 0 to 1."""
    steps = np.linspace(0, 1, len(COLORS))
    table = np.array(COLORS, np.float32)
    return np.stack(
        [np.interp(values, steps, table[:, channel]) for channel in range(3)], axis=-1
    ).astype(np.float32)


def overlaid(picture: Image.Image, values: Array, grid: PatchGrid) -> Image.Image:
    """Returns a picture with a map over it.

    The picture shows in gray, and the map in color, the more the higher it is.

    Args:
        picture: The picture, mode RGB.
        values: ``[rows, columns]``.
        grid: The image's patches.
    """
    heights = heat(values, grid, picture.size)
    gray = np.asarray(picture.convert("L"), np.float32)[..., None]
    opacity = _OPACITY * heights[..., None] ** 0.8
    # Dark where nobody looks, so that the rest stands out.
    mixed = (1 - opacity) * gray * 0.75 + opacity * colored(heights)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
