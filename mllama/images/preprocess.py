"""Division of pictures into the tiles that the vision encoder takes.

A picture is resized, padded and split with 8 bits a value.  Rescaling and normalization
map each of the 256 values of a channel to a float32, whatever the settings are.
transformers' image processor computes this table once, and the vision graph looks up
pixels in it.  The sizes are transformers' too, so the pixel values equal the
reference's bit for bit, without PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)

from mllama.config import MllamaVisionConfig
from mllama.errors import CheckpointError, ImageError

_SETTINGS = (
    "do_convert_rgb",
    "do_normalize",
    "do_pad",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "max_image_tiles",
    "resample",
    "rescale_factor",
    "size",
)
"""The settings that are read from a file; the others name classes."""


NUM_CHANNELS: Final = 3
"""Red, green and blue."""


@dataclass(frozen=True)
class ImageTiles:
    """A processed image.

    Attributes:
        pixel_values: uint8 ``[num_tiles, channels, tile, tile]``, the valid tiles only,
            in row-major order.  They stand for the values of
            :attr:`ImageProcessor.pixel_table`.
        aspect_ratio_id: The id of the arrangement of tiles, from 1.
        num_tiles: Rows times columns of the arrangement.
        arrangement: Rows and columns of the tiles.
        picture_size: Width and height of the picture as people see it.
        resized_size: Width and height that it was resized to; the rest of the tiles, to
            the right and below, is padding.
        hash: A stable hash of the normalized pixel values and the aspect ratio, a
            signed 64-bit integer as MAX's prefix cache takes it.
    """

    pixel_values: npt.NDArray[np.uint8]
    aspect_ratio_id: int
    num_tiles: int
    arrangement: tuple[int, int]
    picture_size: tuple[int, int]
    resized_size: tuple[int, int]
    hash: int

    @property
    def memory_bytes(self) -> int:
        """Returns the memory that its tiles take."""
        return self.pixel_values.nbytes


class ImageProcessor:
    """A checkpoint's image processor.

    Attributes:
        pixel_table: float32 ``[channels, 256]``, what each value of a channel is after
            rescaling and normalization.

    Args:
        settings: The fields of ``preprocessor_config.json``.  Missing sizes default to
            the model's, other missing fields to transformers' defaults.
        vision_config: The configuration of the model's vision encoder.

    Raises:
        CheckpointError: If the settings are invalid, or produce tiles of a size or
            number that the model doesn't take.
    """

    def __init__(
        self, settings: Mapping[str, Any], vision_config: MllamaVisionConfig
    ) -> None:
        tile, max_tiles = vision_config.image_size, vision_config.max_num_tiles
        chosen = {
            "size": {"height": tile, "width": tile},
            "max_image_tiles": max_tiles,
            **{k: settings[k] for k in _SETTINGS if settings.get(k) is not None},
        }
        try:
            self._processor = MllamaImageProcessorPil(**chosen)
            size = self._processor.size
            found = (int(size.height), int(size.width))
            found_tiles = int(self._processor.max_image_tiles)
        # Invalid settings raise errors of any kind.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the image processor's settings can't be used: {reason}"
            ) from error
        if found != (tile, tile):
            raise CheckpointError(
                f"the image processor makes tiles of {found[0]} x {found[1]} pixels, "
                f"but vision_config.image_size is {tile}"
            )
        if found_tiles != max_tiles:
            raise CheckpointError(
                f"the image processor makes up to {found_tiles} tiles, but "
                f"vision_config.max_num_tiles is {max_tiles}"
            )
        # The ids refer to the processor's list of arrangements, not the config's.
        arrangements = get_all_supported_aspect_ratios(max_tiles)
        if sorted(vision_config.supported_aspect_ratios) != sorted(arrangements):
            raise CheckpointError(
                "vision_config.supported_aspect_ratios differ from the arrangements of "
                f"up to {max_tiles} tiles that the image processor makes"
            )
        self._tile = tile
        self._max_tiles = max_tiles
        self._aspect_ratio_ids = {
            arrangement: number for number, arrangement in enumerate(arrangements, 1)
        }
        self.pixel_table = self._normalized_values()

    @classmethod
    def from_pretrained(
        cls, directory: Path, vision_config: MllamaVisionConfig
    ) -> ImageProcessor:
        """Creates the image processor of a checkpoint.

        Its settings are the section ``image_processor`` of ``processor_config.json``,
        or else ``preprocessor_config.json``, in transformers' order.  Without both
        files, transformers' defaults hold.

        Raises:
            CheckpointError: If a file can't be read, or as for the class.
        """
        settings = _read_json(directory / "processor_config.json").get(
            "image_processor"
        )
        if settings is None:
            settings = _read_json(directory / "preprocessor_config.json")
        if not isinstance(settings, Mapping):
            raise CheckpointError(
                f"{directory / 'processor_config.json'}: image_processor must be an "
                "object"
            )
        return cls(settings, vision_config)

    def _normalized_values(self) -> npt.NDArray[np.float32]:
        """Returns the pixel table, computed by transformers' own functions.

        Raises:
            CheckpointError: If the settings can't be applied to a picture.
        """
        processor = self._processor
        values = np.tile(np.arange(256, dtype=np.uint8), (NUM_CHANNELS, 1))
        # A picture of 256 rows and one column.
        picture = values[:, :, np.newaxis]
        try:
            if processor.do_rescale:
                picture = processor.rescale(picture, processor.rescale_factor)
            if processor.do_normalize:
                picture = processor.normalize(
                    picture, processor.image_mean, processor.image_std
                )
            table = picture.astype(np.float32).reshape(NUM_CHANNELS, 256)
        # Invalid settings raise errors of any kind.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the image processor's settings can't be used: {reason}"
            ) from error
        return np.ascontiguousarray(table)

    def __call__(self, image: Image.Image) -> ImageTiles:
        """Resizes, pads and splits a picture.

        Args:
            image: A picture of mode RGB, as :func:`mllama.images.load.load_image`
                returns it.

        Raises:
            ImageError: If it can't be resized.
        """
        try:
            rows, columns, resized = self._resize(image)
        # Any error here concerns this image only.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels can't be "
                f"processed: {reason}"
            ) from error
        tiles = _split(resized, rows, columns, self._tile)
        aspect_ratio_id = self._aspect_ratio_ids[rows, columns]
        return ImageTiles(
            pixel_values=tiles,
            aspect_ratio_id=aspect_ratio_id,
            num_tiles=len(tiles),
            arrangement=(rows, columns),
            picture_size=image.size,
            resized_size=resized.size,
            hash=self._content_hash(tiles, aspect_ratio_id),
        )

    def _resize(self, image: Image.Image) -> tuple[int, int, Image.Image]:
        """Returns the rows and columns of tiles, and the picture that fits them."""
        tile = self._tile
        canvas_height, canvas_width = get_optimal_tiled_canvas(
            image.height, image.width, self._max_tiles, tile
        )
        height, width = get_image_size_fit_to_canvas(
            image.height, image.width, canvas_height, canvas_width, tile
        )
        size = (int(width), int(height))
        # Pillow would copy it.
        if size != image.size:
            # Pillow's own default differs from transformers'.
            resample = self._processor.resample
            image = image.resize(
                size,
                resample=Image.Resampling.BILINEAR if resample is None else resample,
            )
        return int(canvas_height // tile), int(canvas_width // tile), image

    def _content_hash(self, tiles: npt.NDArray[np.uint8], aspect_ratio_id: int) -> int:
        # Equal tiles have different pixel values if the tables differ.
        digest = hashlib.sha256(self.pixel_table.data)
        digest.update(aspect_ratio_id.to_bytes(8, "little"))
        digest.update(tiles.data)
        return int.from_bytes(digest.digest()[:8], "little", signed=True)


def _split(
    image: Image.Image, rows: int, columns: int, tile: int
) -> npt.NDArray[np.uint8]:
    """Splits a picture into tiles, with black to its right and below it.

    Returns:
        uint8 ``[rows * columns, channels, tile, tile]``.
    """
    tiles = np.zeros((rows, columns, NUM_CHANNELS, tile, tile), dtype=np.uint8)
    # Pillow separates the channels faster than NumPy.
    for channel in range(NUM_CHANNELS):
        values = np.asarray(image.getchannel(channel))
        for row in range(rows):
            for column in range(columns):
                part = values[
                    row * tile : (row + 1) * tile, column * tile : (column + 1) * tile
                ]
                height, width = part.shape
                tiles[row, column, channel, :height, :width] = part
    return tiles.reshape(rows * columns, NUM_CHANNELS, tile, tile)


def _read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; an empty one if the file isn't there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content
