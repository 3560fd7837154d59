"""Headers are read in the processes of images, within limits of time and memory."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.config import MllamaVisionConfig
from mllama.errors import EngineOverloadedError, ImageDecodeError, ImageError
from mllama.images import header_limits, load, preparation
from mllama.images.header_limits import header_bytes
from mllama.images.preparation import WorkerProcesses, prepare_image
from mllama.images.preprocess import ImageProcessor
from mllama.images.worker_process import WorkerProcess

PROCESSOR = ImageProcessor(
    {}, MllamaVisionConfig.from_dict({"image_size": 56, "patch_size": 14})
)
EXIF = b"\xff\xe1\0\x12Exif\0\0" + bytes(10)
"""A segment of a JPEG file.  Pillow adds each to those before, in a new copy of all."""


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (90, 70), "red").save(file, kind, **options)
    return file.getvalue()


def jpeg(segments: bytes) -> bytes:
    content = encoded("JPEG")
    return content[:2] + segments + content[2:]


def chunk(name: bytes, data: bytes = b"") -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(chunks: bytes) -> bytes:
    content = encoded("PNG")
    # Behind the signature and the header.
    return content[:33] + chunks + content[33:]


def tiff(count: int) -> bytes:
    """A TIFF file with many numbers of pixels per inch."""
    content = encoded("TIFF", dpi=(72, 72))
    at = content.index(struct.pack("<HHL", 0x11A, 5, 1)) + 4
    place = struct.pack("<LL", count, len(content))
    return content[:at] + place + content[at + 8 :] + struct.pack("<LL", 72, 1) * count


def limit_more() -> None:
    header_limits.HEADER_BYTES = 4 << 20  # type: ignore[misc]


def process_id(image: Image.Image) -> Any:
    return os.getpid()


@contextmanager
def started(**options: Any) -> Iterator[WorkerProcess]:
    process = WorkerProcess(**options)
    try:
        yield process
    finally:
        process.close()


def test_a_header_that_takes_much_memory_is_refused() -> None:
    hostile = [
        jpeg(b"\xff\xe5\0\2" * 400_000),
        png(chunk(b"aaAa") * 300_000),
        tiff(400_000),
    ]
    with started(initialize=limit_more) as process:
        own = process.prepare(encoded("PNG"), process_id)  # type: ignore[arg-type]
        for content in hostile:
            with pytest.raises(ImageError, match="header that takes too much memory"):
                process.prepare(content, PROCESSOR)
        assert process.prepare(encoded("PNG"), process_id) == own  # type: ignore[arg-type]


def test_a_header_that_takes_long_is_refused_once() -> None:
    with started(header_cpu_seconds=0.3) as process:
        first = process.prepare(encoded("PNG"), PROCESSOR)
        with pytest.raises(
            ImageError, match=r"its header takes more than 0\.3 s of a processor"
        ) as error:
            process.prepare(jpeg(EXIF * 300_000), PROCESSOR)
        # Another process isn't tried.
        assert not isinstance(error.value, ImageDecodeError)
        assert process.pid is None
        assert process.prepare(encoded("PNG"), PROCESSOR).hash == first.hash


def test_long_headers_of_photos_are_read() -> None:
    profile = np.random.default_rng(0).bytes(10 << 20)
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content = file.getvalue()
    at = content.index(b"IDAT") - 4
    size = int.from_bytes(content[at : at + 4], "big")
    data = content[at + 8 : at + 8 + size]
    pieces = [chunk(b"IDAT", data[i : i + 50]) for i in range(0, size, 50)]
    assert len(pieces) > 1000
    with started() as process:
        for photo in (
            encoded("JPEG", icc_profile=profile),
            encoded("WEBP", icc_profile=profile),
            jpeg(EXIF * 20),
            content[:at] + b"".join(pieces) + content[at + 12 + size :],
        ):
            wanted = PROCESSOR(load.load_image(photo)).hash
            assert process.prepare(photo, PROCESSOR).hash == wanted


def test_a_server_reads_no_header_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    used = WorkerProcesses(1)
    monkeypatch.setattr(preparation, "_processes", used)
    monkeypatch.setattr(preparation, "open_image", None)
    monkeypatch.setattr(load, "open_picture", None)
    preparation._threads.cache_clear()
    try:
        assert prepare_image(encoded("PNG"), PROCESSOR).result().num_tiles == 4
        with pytest.raises(ImageError, match="not an image"):
            prepare_image(b"text", PROCESSOR).result()
    finally:
        preparation._threads.cache_clear()
        used.all[0].close()


def test_memory_is_waited_for_before_each_step() -> None:
    content = encoded("PNG")
    asked: list[int] = []

    @contextmanager
    def reserve(size: int) -> Iterator[None]:
        asked.append(size)
        yield

    @contextmanager
    def refuse(size: int) -> Iterator[None]:
        raise EngineOverloadedError("no memory", 1)
        yield

    with started() as process:
        own = process.prepare(content, process_id)  # type: ignore[arg-type]
        process.prepare(content, PROCESSOR, reserve, reserve)
        decoded = load.open_image(content).decoded_bytes
        assert asked == [header_bytes(len(content)), decoded]
        # An image that gets no memory leaves a process that waits for the next.
        for reservations in ((refuse, reserve), (reserve, refuse)):
            with pytest.raises(EngineOverloadedError):
                process.prepare(content, PROCESSOR, *reservations)
            assert process.prepare(content, process_id) == own  # type: ignore[arg-type]
