"""Cuts a picture into the tiles that transformers' image processor makes of it.

The arithmetic is that of ``MllamaImageProcessorPil``, in bytes and without its
overhead, since training makes hundreds of thousands of pictures.  The processor itself
ships with the model; a test checks that both agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import (
    convert_aspect_ratios_to_ids_np,
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)

from demo.training.architecture import MAX_TILES, TILE

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Tiles:
    """A picture cut into tiles; unused tiles of ``pixels`` are ignored."""

    pixels: npt.NDArray[np.uint8]  # (MAX_TILES, TILE, TILE, 3)
    ratio_id: int
    high: int
    wide: int
    scale: tuple[float, float]  # canvas pixels per picture pixel, x and y

    @property
    def count(self) -> int:
        """The number of tiles in use."""
        return self.high * self.wide


def cut(picture: Image.Image) -> Tiles:
    """Resizes a picture, pads it with black and cuts it, as the processor does."""
    canvas_height, canvas_width = (
        int(side)
        for side in get_optimal_tiled_canvas(
            picture.height, picture.width, MAX_TILES, TILE
        )
    )
    height, width = get_image_size_fit_to_canvas(
        picture.height, picture.width, canvas_height, canvas_width, TILE
    )
    canvas = np.zeros((canvas_height, canvas_width, 3), np.uint8)
    resized = picture.resize((int(width), int(height)), Image.Resampling.BILINEAR)
    canvas[:height, :width] = np.asarray(resized)
    high, wide = canvas_height // TILE, canvas_width // TILE
    pixels = np.zeros((MAX_TILES, TILE, TILE, 3), np.uint8)
    pixels[: high * wide] = (
        canvas.reshape(high, TILE, wide, TILE, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(high * wide, TILE, TILE, 3)
    )
    ids = convert_aspect_ratios_to_ids_np([[(high, wide)]], MAX_TILES)
    return Tiles(
        pixels=pixels,
        ratio_id=int(ids[0, 0]),
        high=high,
        wide=wide,
        scale=(float(width) / picture.width, float(height) / picture.height),
    )


def normalize(pixels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Normalizes bytes ``(..., tiles, y, x, 3)`` to floats ``(..., tiles, 3, y, x)``.

    Tiles that ``valid`` marks 0 become exactly zero, as in the processor's output.
    """
    values = pixels.float() / 255.0
    values = (values - torch.tensor(MEAN)) / torch.tensor(STD)
    values = values * valid[..., None, None, None]
    return values.movedim(-1, -3).contiguous()
