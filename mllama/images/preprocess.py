"""Division of pictures into the tiles that the vision encoder takes.

transformers' NumPy variant of the image processor does the work, so the pixel values
equal the reference's bit for bit, without PyTorch.
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
"""The settings that are read from a file; the others name classes."""


@dataclass(frozen=True)
class ImageTiles:
    """A processed image.

    Attributes:
        pixel_values: float32 ``[num_tiles, channels, tile, tile]``, the valid tiles
            only, in row-major order.
        aspect_ratio_id: The id of the arrangement of tiles, from 1.
        num_tiles: Rows times columns of the arrangement.
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

    def __call__(self, image: Image.Image) -> ImageTiles:
        """Resizes, pads, normalizes and splits a picture.

        Args:
            image: A picture of mode RGB, as :func:`mllama.images.load.load_image`
                returns it.

        Raises:
            ImageError: If transformers' processor can't process it.
        """
        try:
            features = self._processor(image, return_tensors="np")
        # Any error of the processor concerns this image only.
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
