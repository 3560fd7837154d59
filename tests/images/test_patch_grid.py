"""Patches of tiles, put together into the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.images.load import load_image
from mllama.images.patch_grid import PatchGrid
from mllama.images.preprocess import ImageProcessor

VISION = MllamaConfig.from_path(MODEL_PATH).vision_config
PROCESSOR = ImageProcessor.from_pretrained(MODEL_PATH, VISION)


def token_values(tiles: np.ndarray, patch: int) -> np.ndarray:
    """Returns the mean of each patch's pixels, with -1 for class tokens."""
    values = []
    for tile in tiles[:, 0].astype(np.float64):
        side = len(tile) // patch
        means = tile.reshape(side, patch, side, patch).mean(axis=(1, 3))
        values += [-1.0, *means.ravel()]
    return np.array(values)


@pytest.mark.parametrize(
    "size", [(64, 64), (50, 60), (130, 120), (300, 70), (60, 190), (1, 1), (333, 77)]
)
def test_a_grid_shows_the_picture(size: tuple[int, int]) -> None:
    width, height = size
    gradient = np.add.outer(np.arange(height) * 100 / height, np.arange(width) / width)
    picture = Image.fromarray((50 + gradient).astype(np.uint8)).convert("RGB")
    tiles = PROCESSOR(picture)
    grid = PatchGrid.of(tiles, VISION)
    values = token_values(tiles.pixel_values, VISION.patch_size)
    assert grid.image_tokens == len(values)
    parts = grid.split(values)
    assert parts.picture.shape == (grid.rows, grid.columns)
    assert parts.class_tokens == -grid.tile_rows * grid.tile_columns
    # Padding is black.
    assert parts.padding == pytest.approx(0)
    assert (parts.picture > 0).all()
    # From top to bottom it gets brighter, but for rows that are partly padding.
    whole = parts.picture[: max(1, grid.rows - 1), 0]
    assert (np.diff(whole) >= 0).all()
    assert (grid.width, grid.height) == size
    assert grid.covered_width >= width
    assert grid.covered_height >= height
    assert grid.covered_width < width * (grid.columns + 1) / grid.columns + 1e-6 or (
        grid.columns == 1
    )
    left, top, right, bottom = grid.box(grid.rows - 1, grid.columns - 1)
    assert left < width <= right + 1e-9
    assert top < height <= bottom + 1e-9


def test_masses_add_up_for_any_leading_axes() -> None:
    grid = PatchGrid.of(PROCESSOR(Image.new("RGB", (150, 90))), VISION)
    values = np.random.default_rng(0).random((3, 5, grid.image_tokens))
    parts = grid.split(values)
    total = parts.picture.sum((-2, -1)) + parts.class_tokens + parts.padding
    np.testing.assert_allclose(total, values.sum(-1))


def test_a_picture_is_as_people_see_it() -> None:
    picture = Image.new("RGB", (120, 60))
    exif = picture.getexif()
    exif[0x0112] = 6  # Turn it by 90 degrees.
    import io

    content = io.BytesIO()
    picture.save(content, "JPEG", exif=exif)
    grid = PatchGrid.of(PROCESSOR(load_image(content.getvalue())), VISION)
    assert (grid.width, grid.height) == (60, 120)
    assert grid.rows == 2 * grid.columns
