"""Tiles equal those of transformers bit for bit, and are made without PyTorch."""

from __future__ import annotations

import json
import pickle
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
from mllama.images.preprocess import ImageProcessor, ImageTiles
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
    assert assert_equal_to_transformers(noise(*size, channels)) == num_tiles


def assert_equal_to_transformers(
    image: Image.Image,
    settings: dict[str, Any] = CLIP,
    vision: MllamaVisionConfig = VISION,
) -> int:
    """Compares a picture's tiles with transformers', and returns their number."""
    processor = ImageProcessor(settings, vision)
    tiles = processor(load_image(image))
    reference = MllamaImageProcessorPil(**settings)(image, return_tensors="np")
    assert tiles.num_tiles == reference["num_tiles"][0][0]
    assert tiles.aspect_ratio_id == reference["aspect_ratio_ids"][0, 0]
    assert tiles.pixel_values.dtype == np.uint8
    ours = normalized(processor, tiles)
    theirs = reference["pixel_values"][0, 0, : tiles.num_tiles]
    # Bit by bit: as values, 0 and -0 are equal.
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    return tiles.num_tiles


def normalized(processor: ImageProcessor, tiles: ImageTiles) -> np.ndarray:
    """Looks up pixels as the vision graph does."""
    channels = np.arange(3).reshape(1, 3, 1, 1)
    return processor.pixel_table[channels, tiles.pixel_values]


def many_sizes(tile: int) -> list[tuple[int, int]]:
    """Returns sizes at the edges of each canvas, thin ones and others, over 300."""
    edges = [
        edge for n in range(1, 5) for edge in (n * tile - 1, n * tile, n * tile + 1)
    ]
    sizes = [(width, height) for width in edges for height in edges]
    sizes += [size for long in (*edges, 3000) for size in ((1, long), (long, 1))]
    random = np.random.default_rng(1)
    sizes += [tuple(side) for side in random.integers(1, 8 * tile, (150, 2)).tolist()]
    return sizes


def test_tiles_of_many_sizes_equal_those_of_transformers_bit_for_bit() -> None:
    sizes = many_sizes(56)
    assert len(sizes) > 300
    for size in sizes:
        assert_equal_to_transformers(noise(*size))


@pytest.mark.parametrize("size", [(640, 480), (1121, 559), (2000, 1500), (1, 900)])
def test_tiles_of_the_published_size_equal_those_of_transformers(
    size: tuple[int, int],
) -> None:
    vision = MllamaVisionConfig.from_dict({"image_size": 560, "patch_size": 14})
    settings = CLIP | {"size": {"height": 560, "width": 560}}
    assert_equal_to_transformers(noise(*size), settings, vision)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 0.0039},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": [0, 0, 0], "image_std": [1, 2, 3]},
        *({"resample": filter} for filter in range(6)),
    ],
)
def test_every_setting_is_applied_as_in_transformers(changes: dict[str, Any]) -> None:
    for size in ((200, 90), (30, 20)):
        assert_equal_to_transformers(noise(*size), CLIP | changes)


def test_padding_is_black_before_normalization() -> None:
    processor = ImageProcessor(CLIP, VISION)
    tiles = processor(Image.new("RGB", (56, 28), "white"))
    values = normalized(processor, tiles)
    assert tiles.num_tiles == 1
    for channel in range(3):
        assert (values[0, channel, :28] == processor.pixel_table[channel, 255]).all()
        assert (values[0, channel, 28:] == processor.pixel_table[channel, 0]).all()


def test_the_hash_distinguishes_contents_and_arrangements() -> None:
    processor = ImageProcessor(CLIP, VISION)
    same = {processor(noise(80, 80)).hash for _ in range(2)}
    assert len(same) == 1
    wide, tall = (processor(Image.new("RGB", size)) for size in ((112, 56), (56, 112)))
    np.testing.assert_array_equal(wide.pixel_values, tall.pixel_values)
    assert wide.hash != tall.hash
    assert all(-(2**63) <= t.hash < 2**63 for t in (wide, tall))
    other = ImageProcessor(CLIP | {"image_mean": [0.5, 0.5, 0.5]}, VISION)
    assert other(noise(80, 80)).hash not in same


def test_a_processor_reaches_another_process() -> None:
    processor = ImageProcessor(CLIP, VISION)
    copied = pickle.loads(pickle.dumps(processor))
    assert copied(noise(80, 80)).hash == processor(noise(80, 80)).hash


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
        ({"do_pad": False}, "do_pad"),
        ({"image_mean": [0.5, 0.5]}, "mean must have 3 elements"),
        ({"image_std": ["a", "b", "c"]}, "settings"),
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
