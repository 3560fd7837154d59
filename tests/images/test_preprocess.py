"""Tiles equal those of transformers bit for bit, and are made without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
)

from mllama.config import MllamaVisionConfig
from mllama.errors import CheckpointError
from mllama.images.load import load_image
from mllama.images.preprocess import ImageProcessor
from tests.reference.checkpoints import checkpoint

VISION = MllamaVisionConfig.from_dict({"image_size": 56, "patch_size": 14})
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "max_image_tiles": 4,
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 56, "width": 56},
    "image_processor_type": "MllamaImageProcessor",
}


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "channels", "num_tiles"),
    [
        ((56, 56), 3, 1),
        ((40, 30), 3, 1),
        ((56, 112), 3, 2),
        ((112, 56), 3, 2),
        ((300, 100), 3, 3),
        ((100, 400), 3, 4),
        ((500, 500), 3, 4),
        ((10000, 500), 3, 4),
        ((1, 1), 3, 1),
        ((3, 1), 3, 1),
        ((1, 3), 3, 1),
        ((9, 3), 3, 1),
        ((90, 90), 4, 4),
    ],
)
def test_tiles_equal_those_of_transformers_bit_for_bit(
    size: tuple[int, int], channels: int, num_tiles: int
) -> None:
    image = noise(*size, channels)
    tiles = ImageProcessor(CLIP, VISION)(load_image(image))
    reference = MllamaImageProcessorPil(**CLIP)(image, return_tensors="np")
    assert tiles.num_tiles == num_tiles == reference["num_tiles"][0][0]
    assert tiles.aspect_ratio_id == reference["aspect_ratio_ids"][0, 0]
    assert tiles.pixel_values.dtype == np.float32
    np.testing.assert_array_equal(
        tiles.pixel_values, reference["pixel_values"][0, 0, :num_tiles]
    )


def test_the_hash_distinguishes_contents_and_arrangements() -> None:
    processor = ImageProcessor(CLIP, VISION)
    same = {processor(noise(80, 80)).hash for _ in range(2)}
    assert len(same) == 1
    wide, tall = (processor(Image.new("RGB", size)) for size in ((112, 56), (56, 112)))
    np.testing.assert_array_equal(wide.pixel_values, tall.pixel_values)
    assert wide.hash != tall.hash
    assert all(-(2**63) <= t.hash < 2**63 for t in (wide, tall))


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def test_settings_are_read_from_the_same_files_as_in_transformers(
    tmp_path: Path,
) -> None:
    image = noise(80, 80)
    expected = ImageProcessor(CLIP, VISION)(image).hash
    plain = ImageProcessor({}, VISION)(image).hash
    assert ImageProcessor.from_pretrained(tmp_path, VISION)(image).hash == plain
    write(tmp_path / "preprocessor_config.json", CLIP)
    assert ImageProcessor.from_pretrained(tmp_path, VISION)(image).hash == expected
    write(tmp_path / "processor_config.json", {"processor_class": "MllamaProcessor"})
    assert ImageProcessor.from_pretrained(tmp_path, VISION)(image).hash == expected
    write(tmp_path / "processor_config.json", {"image_processor": CLIP})
    write(tmp_path / "preprocessor_config.json", {})
    assert ImageProcessor.from_pretrained(tmp_path, VISION)(image).hash == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": {"height": 60, "width": 60}}, "60 x 60"),
        ({"size": {"height": 60, "width": 56}}, "same height and width"),
        ({"size": "large"}, "settings"),
        ({"max_image_tiles": 2}, "max_num_tiles"),
        ({"max_image_tiles": "4"}, "settings"),
        ({"do_resize": False}, "do_resize"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        ImageProcessor(CLIP | changes, VISION)
    assert "\n" not in str(caught.value)


def test_unsupported_arrangements_of_tiles_are_refused() -> None:
    vision = MllamaVisionConfig.from_dict(
        {"image_size": 56, "patch_size": 14, "supported_aspect_ratios": [[1, 1]]}
    )
    with pytest.raises(CheckpointError, match="supported_aspect_ratios"):
        ImageProcessor(CLIP, vision)


@pytest.mark.parametrize("content", ["{", "[]", '{"image_processor": 3}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "processor_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"processor_config\.json"):
        ImageProcessor.from_pretrained(tmp_path, VISION)


WITHOUT_TORCH = """
import importlib.machinery as machinery, sys
find = machinery.PathFinder.find_spec.__func__
def find_spec(cls, name, path=None, target=None):
    hidden = name.split(".")[0] in ("torch", "torchvision")
    return None if hidden else find(cls, name, path, target)
machinery.PathFinder.find_spec = classmethod(find_spec)
from pathlib import Path
from PIL import Image
from mllama.config import MllamaConfig
from mllama.images.load import load_image
from mllama.images.preprocess import ImageProcessor
path = Path(sys.argv[1])
processor = ImageProcessor.from_pretrained(
    path, MllamaConfig.from_path(path).vision_config
)
print(processor(load_image(Image.new("RGB", (300, 100)))).num_tiles)
assert "torch" not in sys.modules
"""


def test_no_torch_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(checkpoint())],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert done.stdout.strip() == "3", done.stderr
