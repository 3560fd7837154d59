"""Damaged pictures that their decoder has something to say about."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def damaged_tiff() -> bytes:
    """Returns a picture for which libtiff writes lines to stderr."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", compression="tiff_lzw")
    content = bytearray(file.getvalue())
    # Codes of LZW that aren't in its table yet.
    content[200:240] = b"\xff" * 40
    return bytes(content)
