"""Files whose end is missing are shown as far as they go, unless much is missing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.errors import ImageError
from mllama.images.load import load_image

PHOTO = Image.fromarray(
    np.random.default_rng(0).integers(0, 200, (30, 40, 3), dtype=np.uint8)
).resize((400, 300))
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"subsampling": 0}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0" + bytes(50), "icc_profile": bytes(90)}),
    ("GIF", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TGA", {}),
]


def encoded(kind: str, options: dict[str, Any], picture: Image.Image = PHOTO) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("missing", [1, 2, 3, 12, 40, 0.01, 0.03])
def test_a_small_end_may_be_missing(
    kind: str, options: dict[str, Any], missing: float
) -> None:
    content = encoded(kind, options)
    whole = np.asarray(load_image(content)).astype(int)
    cut = int(len(content) * missing) if missing < 1 else int(missing)
    seen = np.asarray(load_image(content[:-cut])).astype(int)
    differs = np.abs(seen - whole).max(axis=2) > 40
    assert differs.mean() <= 0.1
    if missing < 1 and "progressive" not in options:
        # What is missing is white, but for the block that ends in the middle.
        rows = differs.any(axis=1)
        assert (seen[rows][17:] == 255).all()


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_half_a_file_is_refused(kind: str, options: dict[str, Any]) -> None:
    content = encoded(kind, options)
    # Half of a progressive file has the whole picture, with less detail.
    part = 8 if "progressive" in options else 2
    with pytest.raises(ImageError) as caught:
        load_image(content[: len(content) // part])
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_end_is_white_in_a_palette_and_upright() -> None:
    tags = Image.Exif()
    tags[0x0112] = 3
    content = encoded("PNG", {"exif": tags}, PHOTO.convert("P"))
    seen = np.asarray(load_image(content[: -len(content) // 20]))
    # The end of the file is at the top, since the picture is turned.
    assert (seen[0] == 255).all()
    assert (seen[-1] != 255).any()


def test_a_picture_that_a_caller_has_opened_may_lack_its_end(tmp_path: Any) -> None:
    content = encoded("JPEG", {})
    (tmp_path / "photo.jpg").write_bytes(content[:-2])
    seen = load_image(Image.open(tmp_path / "photo.jpg"))
    assert seen.tobytes() == load_image(content).tobytes()


def test_damage_in_the_middle_is_no_missing_end() -> None:
    content = bytearray(encoded("PNG", {}))
    content[-2000:-1900] = bytes(100)
    with pytest.raises(ImageError, match="can't be decoded"):
        load_image(bytes(content))
