"""From a picture to the tiles that the vision encoder takes.

The work is done by transformers' own NumPy variant of the image processor, so that
the pixel values are the reference's bit for bit, without PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
    get_all_supported_aspect_ratios,
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
"""What an image processor's file may set; the rest of it names classes."""


@dataclass(frozen=True)
class ImageTiles:
    """A processed image.

    Attributes:
        pixel_values: float32 ``[num_tiles, channels, tile, tile]``, the valid tiles
            only, row by row.
        aspect_ratio_id: Which arrangement of tiles it is, from 1.
        num_tiles: Rows times columns of that arrangement.
        hash: A stable hash of the pixel values and the aspect ratio, a signed 64-bit
            integer as MAX's prefix cache takes it.
    """

    pixel_values: npt.NDArray[np.float32]
    aspect_ratio_id: int
    num_tiles: int
    hash: int


class ImageProcessor:
    """A checkpoint's image processor.

    Args:
        settings: The fields of ``preprocessor_config.json``; missing ones take
            transformers' defaults, the sizes those of the model.
        vision_config: The model that the tiles are made for.

    Raises:
        CheckpointError: If the settings can't be used, or make tiles of another size
            or number than the model takes.
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
        # A damaged file fails with whatever its values happen to break.
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
        # The processor counts its own list of arrangements, not the config's.
        arrangements = get_all_supported_aspect_ratios(max_tiles)
        if sorted(vision_config.supported_aspect_ratios) != sorted(arrangements):
            raise CheckpointError(
                "vision_config.supported_aspect_ratios are not the arrangements that "
                f"the image processor makes of up to {max_tiles} tiles"
            )

    @classmethod
    def from_pretrained(
        cls, directory: Path, vision_config: MllamaVisionConfig
    ) -> ImageProcessor:
        """Reads a checkpoint's settings.

        They are the section ``image_processor`` of ``processor_config.json``, else
        ``preprocessor_config.json``, in transformers' order; with neither, its
        defaults.

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

    def __call__(self, image: Image.Image) -> ImageTiles:
        """Resizes, pads, normalizes and splits a picture.

        Args:
            image: A picture of mode RGB, see :func:`mllama.images.load.load_image`.

        Raises:
            ImageError: If transformers' processor can't process it.
        """
        try:
            features = self._processor(image, return_tensors="np")
        # Whatever the processor's arithmetic raises is about this one image.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels can't be "
                f"processed: {reason}"
            ) from error
        num_tiles = int(features["num_tiles"][0][0])
        pixel_values = np.ascontiguousarray(features["pixel_values"][0, 0, :num_tiles])
        aspect_ratio_id = int(features["aspect_ratio_ids"][0, 0])
        return ImageTiles(
            pixel_values=pixel_values,
            aspect_ratio_id=aspect_ratio_id,
            num_tiles=num_tiles,
            hash=_content_hash(pixel_values, aspect_ratio_id),
        )


def _content_hash(pixel_values: npt.NDArray[np.float32], aspect_ratio_id: int) -> int:
    digest = hashlib.blake2b(aspect_ratio_id.to_bytes(8, "little"), digest_size=8)
    digest.update(pixel_values.data)
    return int.from_bytes(digest.digest(), "little", signed=True)


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
