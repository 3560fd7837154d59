"""Pictures are seen as people see them: upright, on white, as bright as they are."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mllama.errors import ImageError
from mllama.images.load import load_image, open_image

STEPS = Image.fromarray(
    np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((32, 32))).astype(
        np.uint8
    )
).convert("RGB")
"""Six squares, of which each has another brightness."""


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png(
    size: tuple[int, int], depth: int, color: int, row: bytes, **chunks: bytes
) -> bytes:
    """Returns a PNG file of equal rows, with chunks before its pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)),
        *(chunk(name.encode(), content) for name, content in chunks.items()),
        chunk(b"IDAT", zlib.compress((b"\0" + row) * size[1])),
        chunk(b"IEND", b""),
    ]
    return b"".join(parts)


def first_row(source: Any) -> list[Any]:
    """Returns the pixels of the first row, as numbers where they are gray."""
    row = np.asarray(load_image(source))[0].tolist()
    return [pixel[0] if len(set(pixel)) == 1 else tuple(pixel) for pixel in row]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_pictures_are_upright_in_every_format(kind: str, orientation: int) -> None:
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    stored = encoded(STEPS, kind, exif=exif(orientation), **options)
    assert_upright(load_image(stored), orientation)
    assert_upright(load_image(Image.open(io.BytesIO(stored))), orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("has_box", [True, False])
def test_heif_is_upright_by_its_container_or_exif(
    has_box: bool, orientation: int
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    tags: Any = exif(orientation)
    # This encoder understands bytes only; it stores the others as they are.
    tags = tags.tobytes() if has_box else tags
    stored = encoded(STEPS, "HEIF", exif=tags, quality=100)
    assert (b"irot" in stored or b"imir" in stored) == (has_box and orientation > 1)
    assert_upright(load_image(stored), orientation)


def assert_upright(seen: Image.Image, orientation: int) -> None:
    wanted = ImageOps.exif_transpose(
        Image.open(io.BytesIO(encoded(STEPS, exif=exif(orientation))))
    )
    assert seen.size == wanted.size
    difference = np.asarray(seen).astype(int) - np.asarray(wanted.convert("RGB"))
    assert np.abs(difference).max() <= 8


def test_a_picture_that_is_turned_already_is_not_turned_again() -> None:
    stored = Image.open(io.BytesIO(encoded(STEPS, "JPEG", exif=exif(6))))
    turned = ImageOps.exif_transpose(stored)
    assert load_image(turned).tobytes() == turned.tobytes()


@pytest.mark.parametrize(
    "damaged", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"x"]
)
def test_damaged_exif_data_are_ignored(damaged: bytes) -> None:
    stored = encoded(STEPS, "JPEG", exif=damaged)
    assert load_image(stored).size == STEPS.size


def test_memory_for_turned_and_transparent_pictures_is_counted() -> None:
    def counted(content: bytes) -> float:
        return open_image(content).decoded_bytes / 10_000

    size = (100, 100)
    plain = encoded(Image.new("RGB", size), "PNG")
    turned = encoded(Image.new("RGB", size), "PNG", exif=exif(6))
    layered = encoded(Image.new("RGBA", size), "PNG")
    both = encoded(Image.new("RGBA", size), "PNG", exif=exif(6))
    keyed = encoded(Image.new("RGB", size), "PNG", transparency=(0, 0, 0))
    for more in (turned, layered, keyed):
        assert counted(more) == pytest.approx(counted(plain) + 4, abs=0.1)
    assert counted(both) == pytest.approx(counted(plain) + 8, abs=0.1)


PALETTE = bytes([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (png((8, 1), 1, 0, b"\x0f", tRNS=b"\0\0"), [255] * 8),
        (png((4, 1), 2, 0, b"\x1b", tRNS=b"\0\1"), [0, 255, 170, 255]),
        (png((2, 1), 4, 0, b"\x5a", tRNS=b"\0\5"), [255, 170]),
        (png((2, 1), 8, 0, b"\x05\x60", tRNS=b"\0\5"), [255, 96]),
        (png((2, 1), 16, 0, b"\5\0\x60\0", tRNS=b"\5\0"), [255, 96]),
        (png((2, 1), 16, 0, b"\5\1\x60\0", tRNS=b"\5\0"), [5, 96]),
        (
            png((2, 1), 8, 2, b"\1\2\3\4\5\6", tRNS=b"\0\1\0\2\0\3"),
            [255, (4, 5, 6)],
        ),
        (
            png((2, 1), 16, 2, b"\1\0\2\0\3\0\4\0\5\0\6\0", tRNS=b"\1\0\2\0\3\0"),
            [255, (4, 5, 6)],
        ),
        (
            png((4, 1), 2, 3, b"\x1b", PLTE=PALETTE, tRNS=b"\0\xff\0"),
            [255, (40, 50, 60), 255, (1, 2, 3)],
        ),
        (png((2, 1), 16, 4, b"\5\0\0\0\x60\0\xff\xff"), [255, 96]),
        (png((2, 1), 16, 6, bytes(8) + b"\5\0\6\0\7\0\xff\xff"), [255, (5, 6, 7)]),
    ],
)
def test_transparency_of_every_kind_of_png_is_white(
    content: bytes, wanted: list[Any]
) -> None:
    assert first_row(content) == wanted
    assert first_row(Image.open(io.BytesIO(content))) == wanted


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_alpha_of_every_mode_is_white(mode: str) -> None:
    picture = Image.new("RGBA", (2, 1), (0, 0, 255, 0))
    picture.putpixel((1, 0), (0, 0, 255, 255))
    match mode:
        case "La":
            picture = picture.convert("LA").convert("La")
        case "PA":
            alpha = picture.getchannel("A")
            picture = picture.convert("RGB").convert("P").convert("PA")
            picture.putalpha(alpha)
        case _:
            picture = picture.convert(mode)
    assert picture.mode == mode
    assert first_row(picture) == [255, 29 if mode[0] == "L" else (0, 0, 255)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "TIFF", "TGA", "JPEG2000"])
def test_transparency_of_every_format_is_white(kind: str) -> None:
    picture = Image.new("RGBA", (32, 32), (0, 0, 255, 0))
    picture.paste((0, 0, 255, 255), (16, 0, 32, 32))
    seen = load_image(encoded(picture, kind))
    assert seen.getpixel((2, 2)) == (255, 255, 255)
    assert np.abs(np.subtract(seen.getpixel((30, 30)), (0, 0, 255))).max() < 8


def test_colors_of_printers_are_right() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        assert load_image(encoded(red, kind)).getpixel((4, 4)) == (255, 0, 0)


def gray(values: list[float], kind: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=kind))


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (encoded(gray([0, 257, 32896, 65535], "uint16")), [0, 1, 128, 255]),
        (encoded(gray([0, 257, 32896, 65535], "uint16"), "TIFF"), [0, 1, 128, 255]),
        (gray([0, 128, 255, 65535], "uint16"), [0, 0, 1, 255]),
        (encoded(gray([0, 65535], "uint16"), "TIFF", tiffinfo={262: 0}), [255, 0]),
        (b"P5 2 1 65535\n\0\1\xff\xff", [0, 255]),
        # A dark picture is not taken for one of 8 bits.
        (b"P5 2 1 65535\n\0\1\0\xff", [0, 1]),
        (b"P5 2 1 1000\n\0\0\3\xe8", [0, 255]),
        (b"P6 1 1 65535\n\0\0\xff\xff\1\1", [(0, 255, 1)]),
        (b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0, 1), [0, 255]),
        (encoded(gray([0, 0.5, 1], "float32"), "TIFF"), [0, 128, 255]),
        (gray([0, 0.25, 1], "float32"), [0, 64, 255]),
    ],
)
def test_more_than_eight_bits_are_scaled(source: Any, wanted: list[int]) -> None:
    assert first_row(source) == wanted


def test_twelve_bits_are_scaled() -> None:
    values = [0, 0x800, 0xFFF, 0]
    packed = bytes.fromhex("".join(f"{value:03x}" for value in values))
    assert first_row(twelve_bit_tiff(4, packed)) == [0, 128, 255, 0]


def twelve_bit_tiff(width: int, pixels: bytes) -> bytes:
    """Returns a TIFF file with one row of gray samples of 12 bits."""
    # Tags of the type LONG with one value each.
    tags = {256: width, 257: 1, 258: 12, 259: 1, 262: 1}
    tags |= {277: 1, 278: 1, 279: len(pixels)}
    offset = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = sorted({**tags, 273: offset}.items())
    directory = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return header + directory + bytes(4) + pixels


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (gray([0, 1.5], "float32"), "floating-point numbers from 0 to 1.5"),
        (gray([-1, 1], "float32"), "floating-point numbers from -1 to 1"),
        (gray([0, float("nan")], "float32"), "floating-point numbers"),
        (gray([0, 255], "int32"), "32-bit integers"),
        (encoded(gray([0, 1 << 30], "int32"), "TIFF"), "32-bit integers"),
        (encoded(gray([0, 255], "float32"), "TIFF"), "scale them"),
    ],
)
def test_values_that_are_no_brightness_are_refused(source: Any, reason: str) -> None:
    with pytest.raises(ImageError, match="can't be shown") as caught:
        load_image(source)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["iCCP", "zTXt", "tEXt", "iTXt"])
def test_metadata_of_any_size_are_ignored(name: str) -> None:
    many = bytes(20_000_000 if name in ("iCCP", "zTXt") else 5_000_000)
    content = {
        "iCCP": b"a\0\0" + zlib.compress(many, 1),
        "zTXt": b"a\0\0" + zlib.compress(many, 1),
        "tEXt": b"a\0" + many,
        "iTXt": b"a\0\1\0\0\0" + zlib.compress(many, 1),
    }[name]
    assert first_row(png((2, 1), 8, 0, b"\1\2", **{name: content})) == [1, 2]


def test_metadata_behind_the_pixels_are_ignored() -> None:
    content = png((2, 1), 8, 0, b"\1\2")
    text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(5_000_000))
    chunk = (
        struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    )
    assert first_row(content[:-12] + chunk + content[-12:]) == [1, 2]
