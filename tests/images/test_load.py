"""Images of every kind are loaded; invalid ones are refused by name."""

from __future__ import annotations

import base64
import io
import tracemalloc
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import convert_to_rgb

from mllama.errors import ImageError
from mllama.images.formats import MAX_PIXELS, MAX_SIDE
from mllama.images.load import load_image


def noise(width: int = 9, height: int = 7, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels))
    return Image.fromarray(values.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = encoded(noise())


def are_equal(left: Image.Image, right: Image.Image) -> bool:
    return left.mode == right.mode and left.tobytes() == right.tobytes()


def refusal(source: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_all_kinds_of_sources_give_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(PNG)
    packed = base64.b64encode(PNG).decode()
    for source in (
        noise(),
        PNG,
        bytearray(PNG),
        memoryview(PNG),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        f"data:image/png;base64,{packed}",
        f"DATA:;base64,{packed.rstrip('=')}",
        f"data:image/png;base64,{packed[:60]}\n{packed[60:]}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    ):
        assert are_equal(load_image(source), noise())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "RGBA", "PA"])
def test_modes_are_converted_as_the_reference_does(mode: str) -> None:
    image = noise(channels=4).convert("RGB" if mode != "RGBA" else "RGBA")
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    assert are_equal(load_image(image), convert_to_rgb(image))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_used(kind: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(red, kind, save_all=True, append_images=[blue], **options)
    assert load_image(content).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (10000, 500)])
def test_tiny_and_wide_images_are_accepted(size: tuple[int, int]) -> None:
    assert load_image(encoded(Image.new("RGB", size))).size == size


def test_more_pixels_than_the_limit_are_refused_before_decoding() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    assert f"at most {MAX_PIXELS:,}" in refusal(encoded(Image.new("1", (side, side))))
    assert "pixels" in refusal(encoded(Image.new("1", (20000, 20000))))


@pytest.mark.parametrize("size", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)])
def test_longer_sides_than_the_limit_are_refused(size: tuple[int, int]) -> None:
    assert f"at most {MAX_SIDE:,} a side" in refusal(encoded(Image.new("1", size)))


def test_files_are_refused_by_name(tmp_path: Path) -> None:
    assert "no.png" in refusal(tmp_path / "no.png")
    assert "is a directory" in refusal(tmp_path)
    assert refusal("a\0b")
    assert refusal("a" * 100000)
    (tmp_path / "empty.png").touch()
    assert "zero bytes" in refusal(str(tmp_path / "empty.png"))
    (tmp_path / "text.png").write_text("not found")
    message = refusal(tmp_path / "text.png")
    assert "text.png is not an image" in message
    assert "JPEG" in message
    assert "not array" in refusal(array("b"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "a web page"),
        (b"\n<html><head>", "a web page"),
        (b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg width="9">', "an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF document"),
        (PNG[:20], "a damaged PNG file"),
    ],
)
def test_what_a_file_is_instead_is_said(content: bytes, reason: str) -> None:
    assert f"the file is {reason}" in refusal(content)


def test_postscript_is_not_passed_to_ghostscript() -> None:
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    assert "not an image" in refusal(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_images_are_refused(kind: str) -> None:
    content = encoded(noise(64, 64), kind)
    assert refusal(content[: len(content) // 2])


def test_a_truncated_image_is_compared_in_strips() -> None:
    picture = Image.new("RGB", (3000, 3000), "red")
    content = encoded(picture, "BMP")[: -3000 * 3 * 100]
    tracemalloc.start()
    try:
        # Its own pixels, which Pillow holds, aren't counted.
        loaded = load_image(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - len(content) < 3000 * 3000 * 6
    # BMP begins at the bottom.
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((0, 101)) == (255, 0, 0)


def test_a_truncated_picture_can_be_given_twice() -> None:
    content = encoded(noise(64, 64), "BMP")
    picture = Image.open(io.BytesIO(content[: -64 * 3 * 2]))
    first, second = load_image(picture), load_image(picture)
    assert np.array_equal(first, second)
    with pytest.raises(OSError, match="truncated"):
        picture.load()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png;base64", "comma"),
        ("data:image/png;base64,####", "base64"),
        ("data:image/png;base64,A", "base64"),
        ("data:image/png;base64,", "zero bytes"),
        ("ftp://host/a.png", "'ftp'"),
        ("file:///etc/passwd", "'file'"),
        ("http://", "fetched"),
        ("http://[::1", "fetched"),
        ("http://127.0.0.1:9/a.png", "fetched"),
    ],
)
def test_unusable_urls_are_refused_with_the_reason(url: str, reason: str) -> None:
    assert reason in refusal(url)


@example(b"")
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_an_image_error(content: bytes) -> None:
    with pytest.raises(ImageError):
        load_image(content)


@given(
    st.sampled_from(
        [encoded(noise(), k) for k in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")]
    ),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
)
def test_damaged_images_are_loaded_or_refused(
    content: bytes, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        assert load_image(bytes(damaged)).mode == "RGB"
    except ImageError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
