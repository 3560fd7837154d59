"""Pictures of every format, mode and way of compression, in any size."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from PIL import Image

_ADAM7: Final = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)),
    *((1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column and row, and the steps between columns and rows, of PNG's passes."""

_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by PNG's color type."""


def png(
    side: int, bits: int, color: int, interlaced: bool = False, **chunks: bytes
) -> bytes:
    """Returns a black square as PNG, of kinds that Pillow doesn't write, too."""

    def rows(width: int, height: int) -> bytes:
        bytes_of_row = 1 + (width * bits * _CHANNELS[color] + 7) // 8
        return bytes(bytes_of_row * height) if width else b""

    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    pixels = b"".join(
        rows((side - x + dx - 1) // dx, (side - y + dy - 1) // dy)
        for x, y, dx, dy in passes
    )
    header = struct.pack(">IIBBBBB", side, side, bits, color, 0, 0, interlaced)
    parts = [(b"IHDR", header)]
    if color == 3:
        parts.append((b"PLTE", bytes(range(6))))
    parts += [(name.encode(), data) for name, data in chunks.items()]
    parts += [(b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def jpeg_in_scans(side: int) -> bytes:
    """Returns a gray square as baseline JPEG that has each component in a scan.

    All codes are one zero bit: a difference of 0, and the end of the block.
    """
    blocks = (side + 7) // 8
    data = bytes((2 * blocks * blocks + 7) // 8)

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content

    code = bytes([1]) + bytes(16)
    tables = segment(0xDB, b"\0" + bytes([1]) * 64)
    tables += segment(0xC4, b"\0" + code) + segment(0xC4, b"\x10" + code)
    layers = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    frame = segment(0xC0, struct.pack(">BHHB", 8, side, side, 3) + layers)
    scans = b"".join(
        segment(0xDA, bytes([1, number, 0, 0, 63, 0])) + data for number in (1, 2, 3)
    )
    return b"\xff\xd8" + tables + frame + scans + b"\xff\xd9"


def ppm(side: int, kind: bytes, most: int, sample: bytes) -> bytes:
    """Returns a square of equal samples as PPM."""
    channels = 3 if kind in (b"P3", b"P6") else 1
    head = b"%b %d %d %d\n" % (kind, side, side, most)
    return head + sample * (channels * side * side)


def pfm(side: int) -> bytes:
    """Returns a white square of floating-point numbers."""
    return b"Pf\n%d %d\n-1.0\n" % (side, side) + struct.pack("<f", 1) * side**2


def bmp_in_runs(side: int) -> bytes:
    """Returns a black square as BMP with run-length encoding."""
    whole, rest = divmod(side, 255)
    row = b"\xff\0" * whole + (bytes([rest, 0]) if rest else b"") + b"\0\0"
    data = row * side + b"\0\1"
    start = 14 + 40 + 1024
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(data), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
        + bytes(1024)
        + data
    )


def tiff(side: int, channels: int, bits: int, **tags: int) -> bytes:
    """Returns a black square as TIFF without compression, in one strip or planes.

    Args:
        tags: ``planar`` 2 stores a plane for each channel; ``photometric``; ``format``
            3 for floating-point numbers.
    """
    planes = channels if tags.get("planar") == 2 else 1
    size = side * side * channels * bits // 8 // planes

    def entry(tag: int, kind: int, values: tuple[int, ...]) -> tuple[bytes, bytes]:
        data = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        return struct.pack("<HHI", tag, kind, len(values)), data

    photometric = tags.get("photometric", 2 if channels >= 3 else 1)
    needed = 4 if photometric == 5 else 3 if photometric == 2 else 1
    entries = [
        entry(256, 4, (side,)),
        entry(257, 4, (side,)),
        entry(258, 3, (bits,) * channels),
        entry(259, 3, (1,)),
        entry(262, 3, (photometric,)),
        entry(273, 4, (0,) * planes),
        entry(277, 3, (channels,)),
        entry(278, 4, (side,)),
        entry(279, 4, (size,) * planes),
        entry(284, 3, (tags.get("planar", 1),)),
    ]
    if channels > needed:
        entries.append(entry(338, 3, (2,) * (channels - needed)))
    if "format" in tags:
        entries.append(entry(339, 3, (tags["format"],) * channels))
    at = 8 + 2 + 12 * len(entries) + 4
    extra = sum(len(data) for _, data in entries if len(data) > 4)
    pixels = at + extra
    directory, values = b"", b""
    for head, data in entries:
        if head[:2] == struct.pack("<H", 273):
            starts = [pixels + size * plane for plane in range(planes)]
            data = struct.pack(f"<{planes}I", *starts)
        if len(data) > 4:
            directory += head + struct.pack("<I", at + len(values))
            values += data
        else:
            directory += head + data.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + bytes(4) + values + bytes(size * planes)


def written(
    side: int, kind: str, mode: str, noise: bool = False, **options: Any
) -> bytes:
    """Returns a square that Pillow has encoded.

    Args:
        noise: Whether it is of noise in blocks, in place of one color.
    """
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    if noise:
        random = np.random.default_rng(0)
        small = random.integers(0, 256, (side // 4, side // 4, 3), np.uint8)
        picture = Image.fromarray(small).resize((side, side))
    else:
        picture = Image.new("RGB", (side, side), (200, 30, 30))
    if mode.startswith("I;16"):
        picture = picture.convert("L").convert("I").convert("I;16")
    elif mode == "F":
        picture = Image.new("F", (side, side), 0.5)
    elif mode == "LAB":
        picture = Image.new("LAB", (side, side))
    else:
        picture = picture.convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.radial_gradient("L").resize(picture.size))
    if frames := options.pop("frames", 0):
        others = [picture.rotate(90 * turn) for turn in range(1, frames)]
        options |= {"save_all": True, "append_images": others}
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def heif_deep(side: int, mode: str) -> bytes:
    """Returns a square as HEIF with 10 or 12 bits a sample."""
    import pillow_heif

    channels = 4 if mode.startswith("RGBA") else 3
    data = np.zeros((side, side, channels), np.uint16)
    data[side // 2 :] = 1000
    file = io.BytesIO()
    pillow_heif.encode(mode, (side, side), data.tobytes(), file)
    return file.getvalue()


_EXIF_TURNED: Final = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
)

KINDS: Final[Mapping[str, Callable[[int], bytes]]] = {
    **{
        f"JPEG {mode} {sampling}{' progressive' if progressive else ''}": partial(
            written,
            kind="JPEG",
            mode=mode,
            progressive=progressive,
            noise=True,
            **({} if mode != "RGB" else {"subsampling": sampling}),
        )
        for progressive in (False, True)
        for mode, sampling in (
            ("L", ""),
            ("RGB", "4:2:0"),
            ("RGB", "4:2:2"),
            ("RGB", "4:4:4"),
            ("CMYK", ""),
        )
    },
    "JPEG turned": partial(written, kind="JPEG", mode="RGB", exif=_EXIF_TURNED),
    "JPEG in scans": jpeg_in_scans,
    "MPO": partial(written, kind="MPO", mode="RGB", frames=2, noise=True),
    **{
        f"PNG type {color} {bits} bit{' interlaced' if interlaced else ''}": partial(
            png, bits=bits, color=color, interlaced=interlaced
        )
        for interlaced in (False, True)
        for color, bits in (
            *((0, 1), (0, 8), (0, 16), (2, 8), (2, 16)),
            *((3, 1), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)),
        )
    },
    "PNG type 0 8 bit keyed": partial(png, bits=8, color=0, tRNS=bytes(2)),
    "PNG type 0 16 bit keyed": partial(png, bits=16, color=0, tRNS=bytes(2)),
    "PNG type 2 8 bit keyed": partial(png, bits=8, color=2, tRNS=bytes(6)),
    "PNG type 3 8 bit keyed": partial(png, bits=8, color=3, tRNS=bytes(2)),
    "APNG": partial(written, kind="PNG", mode="RGBA", frames=2),
    "WEBP RGB": partial(written, kind="WEBP", mode="RGB", noise=True, method=0),
    "WEBP RGBA": partial(written, kind="WEBP", mode="RGBA", noise=True, method=0),
    "WEBP RGB lossless": partial(
        written, kind="WEBP", mode="RGB", lossless=True, quality=0, method=0
    ),
    "WEBP RGBA lossless": partial(
        written, kind="WEBP", mode="RGBA", lossless=True, quality=0, method=0
    ),
    "WEBP animated": partial(
        written, kind="WEBP", mode="RGBA", frames=3, method=0, noise=True
    ),
    **{
        f"AVIF {mode} {sampling}": partial(
            written, kind="AVIF", mode=mode, subsampling=sampling, speed=10, noise=True
        )
        for mode, sampling in (
            *(("L", "4:0:0"), ("RGB", "4:2:0"), ("RGB", "4:4:4")),
            *(("RGBA", "4:2:0"), ("RGBA", "4:4:4")),
        )
    },
    "AVIF animated": partial(
        written, kind="AVIF", mode="RGB", frames=3, speed=10, noise=True
    ),
    "HEIF L": partial(written, kind="HEIF", mode="L"),
    "HEIF RGB": partial(written, kind="HEIF", mode="RGB"),
    "HEIF RGB 4:4:4": partial(written, kind="HEIF", mode="RGB", chroma=444, quality=90),
    "HEIF RGBA": partial(written, kind="HEIF", mode="RGBA"),
    "HEIF RGB;16": partial(heif_deep, mode="RGB;16"),
    "HEIF RGBA;16": partial(heif_deep, mode="RGBA;16"),
    **{
        f"JPEG2000 {mode}{name}": partial(
            written, kind="JPEG2000", mode=mode, noise=True, **options
        )
        for mode in ("L", "LA", "RGB", "RGBA", "I;16")
        for name, options in (
            ("", {}),
            (" tiled", {"tile_size": (256, 256)}),
            (" lossy", {"irreversible": True, "quality_layers": [20]}),
        )
    },
    **{
        f"TIFF {mode} {compression}": partial(
            written, kind="TIFF", mode=mode, compression=compression, noise=True
        )
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB")
        for compression in ("raw", "tiff_lzw")
    },
    "TIFF RGB jpeg": partial(
        written, kind="TIFF", mode="RGB", compression="jpeg", noise=True
    ),
    "TIFF L jpeg": partial(
        written, kind="TIFF", mode="L", compression="jpeg", noise=True
    ),
    "TIFF YCbCr jpeg": partial(
        written, kind="TIFF", mode="YCbCr", compression="jpeg", noise=True
    ),
    "TIFF 1 group4": partial(written, kind="TIFF", mode="1", compression="group4"),
    "TIFF RGB one strip": partial(
        written,
        kind="TIFF",
        mode="RGB",
        compression="tiff_adobe_deflate",
        strip_size=1 << 30,
    ),
    "TIFF RGBA one strip": partial(
        written,
        kind="TIFF",
        mode="RGBA",
        compression="tiff_adobe_deflate",
        strip_size=1 << 30,
    ),
    "TIFF RGB jpeg one strip": partial(
        written, kind="TIFF", mode="RGB", compression="jpeg", strip_size=1 << 30
    ),
    "TIFF RGB planes": partial(tiff, channels=3, bits=8, planar=2),
    "TIFF RGB 16 bit": partial(tiff, channels=3, bits=16),
    "TIFF RGBA 16 bit": partial(tiff, channels=4, bits=16),
    "TIFF white is zero": partial(tiff, channels=1, bits=8, photometric=0),
    "TIFF I;16 white is zero": partial(tiff, channels=1, bits=16, photometric=0),
    "GIF": partial(written, kind="GIF", mode="P", noise=True),
    "GIF keyed": partial(written, kind="GIF", mode="P", transparency=0),
    "GIF animated": partial(written, kind="GIF", mode="P", frames=3, noise=True),
    "BMP 1": partial(written, kind="BMP", mode="1"),
    "BMP P": partial(written, kind="BMP", mode="P"),
    "BMP RGB": partial(written, kind="BMP", mode="RGB"),
    "BMP RGBA": partial(written, kind="BMP", mode="RGBA"),
    "BMP in runs": bmp_in_runs,
    "TGA RGB": partial(written, kind="TGA", mode="RGB"),
    "TGA RGBA": partial(written, kind="TGA", mode="RGBA"),
    "TGA RGB in runs": partial(
        written, kind="TGA", mode="RGB", compression="tga_rle", noise=True
    ),
    "TGA LA": partial(written, kind="TGA", mode="LA"),
    "PPM RGB": partial(ppm, kind=b"P6", most=255, sample=b"a"),
    "PPM L": partial(ppm, kind=b"P5", most=255, sample=b"a"),
    "PPM 1": partial(written, kind="PPM", mode="1"),
    "PPM RGB 100": partial(ppm, kind=b"P6", most=100, sample=b"a"),
    "PPM RGB 16 bit": partial(ppm, kind=b"P6", most=65535, sample=b"ab"),
    "PPM I 16 bit": partial(ppm, kind=b"P5", most=65535, sample=b"ab"),
    "PPM RGB text": partial(ppm, kind=b"P3", most=255, sample=b"77 "),
    "PPM I text": partial(ppm, kind=b"P2", most=65535, sample=b"777 "),
    "PFM": pfm,
}
"""Functions that return a square with sides of so many pixels, by its name."""
