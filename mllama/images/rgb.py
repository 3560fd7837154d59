"""Conversion of decoded pictures to what people see: upright, opaque, RGB of 8 bits.

Ordinary pictures become what transformers' image processor makes of them, bit for bit.
Embedded color profiles are not applied.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from mllama.errors import ImageError
from mllama.images.formats import EXIF_ORIENTATION

STRIP_PIXELS: Final = 1 << 18
"""Pixels of a strip that is converted at once, which takes about a millisecond."""

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""

_BITS_PER_SAMPLE: Final = 258
_PHOTOMETRIC: Final = 262
"""Tags of TIFF files."""

_WHITE_IS_ZERO: Final = 0


def to_rgb(
    image: Image.Image, bits: int = 8, missing: Image.Image | None = None
) -> Image.Image:
    """Converts a decoded picture to RGB, upright and on white.

    Args:
        image: A picture, which is not changed.
        bits: Bits of a sample in the file, as of :func:`sample_bits`.
        missing: A mask of pixels that become white.

    Raises:
        ImageError: If the values have no meaning as brightness.
    """
    transpose = _UPRIGHT.get(orientation(image))
    flattened = _flattened(image, bits)
    if missing is not None:
        if flattened is image:
            flattened = image.copy()
        flattened.paste("white", (0, 0, *image.size), missing)
    return flattened if transpose is None else flattened.transpose(transpose)


def is_turned(image: Image.Image) -> bool:
    """Returns True if a picture is stored sideways, upside down or mirrored.

    The picture isn't decoded.
    """
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would decode the picture to look for them.
        return b"eXIf" in _content(image)
    return orientation(image) in _UPRIGHT


def _content(image: Image.Image) -> bytes:
    file = getattr(image, "fp", None)
    return file.getvalue() if isinstance(file, io.BytesIO) else b""


def strips(image: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """Yields the strips of a picture, and the first row of each.

    What is done with a whole picture takes several times its memory.
    """
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield image.crop((0, top, width, min(height, top + rows))), top


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of a decoded picture, 1 if it has none."""
    value = image.info.get(EXIF_ORIENTATION)
    if value is not None:
        return int(value)
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    # EXIF data may be damaged in any way, and an image is shown without them.
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def sample_bits(image: Image.Image) -> int:
    """Returns the bits of a sample in the file of a picture, before it is decoded."""
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
        return int(bits[0] if isinstance(bits, tuple) else bits)
    tiles = getattr(image, "tile", ())
    if image.format != "PNG" or not tiles:
        return 8
    # Such as RGB;16B or L;4, from Pillow's list of PNG's kinds of pixels.
    raw_mode = tiles[0][3]
    depth = str(raw_mode).partition(";")[2].rstrip("BLNRI")
    return int(depth) if depth.isdigit() else 8


def _flattened(image: Image.Image, bits: int) -> Image.Image:
    """Returns what transformers converts a picture to; one of mode RGB as it is.

    Strip by strip, because Pillow composites a whole picture without releasing Python's
    lock, and to hold fewer pictures of its size at once.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    to_eight_bits = _conversion_to_eight_bits(image, bits)
    # transformers imports the hub's client, which reads its environment then: this must
    # not happen before telemetry is disabled.
    from transformers.models.mllama.image_processing_pil_mllama import convert_to_rgb

    key = _scaled_key(image, bits)
    flattened = Image.new("RGB", image.size)
    for strip, top in strips(image):
        if key is not None:
            strip.info["transparency"] = key
        if to_eight_bits is not None:
            strip = to_eight_bits(strip)
        if strip.has_transparency_data:
            strip = _with_alpha(strip)
        flattened.paste(convert_to_rgb(strip), (0, top))
    return flattened


def _with_alpha(image: Image.Image) -> Image.Image:
    """Returns a picture with transparency of any kind as RGBA."""
    # Pillow drops the alpha of these on the way to RGBA.
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _conversion_to_eight_bits(
    image: Image.Image, bits: int
) -> Callable[[Image.Image], Image.Image] | None:
    """Returns what gives strips of a picture 8 bits a sample; None if they have them.

    Pillow clips larger values at 255.

    Raises:
        ImageError: As :func:`to_rgb`.
    """
    mode = image.mode
    is_inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        # TIFF has 12 bits, too.
        full = (1 << bits) - 1 if 8 < bits < 16 else 65535
        return lambda strip: _gray(
            strip, np.asarray(strip).astype(np.int32), full, is_inverted
        )
    if mode == "I":
        raise ImageError(
            "its values are 32-bit integers, whose range of brightness is unknown; "
            "convert them to 8 or 16 bits"
        )
    if mode == "F":
        low, high = _range(image)
        # Also false for values that are not numbers.
        if not (low >= 0 and high <= 1):
            raise ImageError(
                f"its values are floating-point numbers from {low:g} to {high:g}, "
                "but only 0 to 1 is a brightness; scale them, or convert them to 8 bits"
            )
        return lambda strip: _gray(
            strip,
            np.rint(np.asarray(strip) * 65535).astype(np.int32),
            65535,
            is_inverted,
        )
    return None


def _range(image: Image.Image) -> tuple[float, float]:
    """Returns the least and the greatest value, NaN if there is one."""
    ranges = [
        (values.min(), values.max())
        for values in (np.asarray(strip) for strip, _ in strips(image))
    ]
    return float(np.min(ranges)), float(np.max(ranges))


def _gray(
    strip: Image.Image, values: npt.NDArray[np.int32], full: int, is_inverted: bool
) -> Image.Image:
    """Returns a gray picture of values up to ``full``, with alpha for a color key."""
    opaque = None
    key = strip.info.get("transparency")
    if isinstance(key, int):
        opaque = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    if is_inverted:
        values = full - values
    # In integers: 16 bits become 8 exactly as by a division by 257.
    gray = Image.fromarray(
        ((np.clip(values, 0, full) * 255 + full // 2) // full).astype(np.uint8)
    )
    return gray if opaque is None else Image.merge("LA", (gray, opaque))


def _scaled_key(image: Image.Image, bits: int) -> Any:
    """Returns a picture's color key in the scale of its pixels, or None.

    PNG's key has the file's bits, and Pillow's pixels have 8.
    """
    key = image.info.get("transparency")
    if image.mode not in ("L", "RGB") or not isinstance(key, (int, tuple)):
        return None

    def scaled(value: int) -> int:
        return value >> 8 if bits == 16 else value * 255 // ((1 << bits) - 1)

    return tuple(map(scaled, key)) if isinstance(key, tuple) else scaled(key)
