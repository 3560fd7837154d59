"""Several processes read the pixels of a request's images, as long as it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mllama.image_cache.shared_pixels import (
    SHARED_PIXELS,
    SharedPixels,
    image_pixels,
)
from mllama.max_compat.model import ImageMetadata

TILES = (1, 4, 2)

pytestmark = pytest.mark.skipif(
    not SharedPixels.are_possible(), reason="this system has no such memory"
)


@dataclass
class Context:
    """What the pixels need of a request's context."""

    images: list[Any] = field(default_factory=list)
    extra_model_args: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def pixels() -> list[Any]:
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 256, (tiles, 3, 8, 8), dtype=np.uint8) for tiles in TILES
    ]


def context(pixels: list[Any]) -> Context:
    return Context(
        [
            ImageMetadata(
                start_idx=index, end_idx=index + 1, pixel_values=each, image_hash=index
            )
            for index, each in enumerate(pixels)
        ]
    )


def test_a_reference_stands_for_the_pixels(pixels: list[Any]) -> None:
    shared = SharedPixels(context(pixels))
    other = context(pixels)
    for _ in range(2):  # A second time changes nothing.
        shared.replace_pixels(other)
        assert sum(image.pixel_values.nbytes for image in other.images) == 0
        assert [len(image.pixel_values) for image in other.images] == list(TILES)
        for index, each in enumerate(pixels):
            assert np.array_equal(image_pixels(other, index), each)
    assert [image.image_hash for image in other.images] == [0, 1, 2]
    shared.close()
    shared.close()


def test_without_a_reference_the_pixels_are_the_contexts_own(
    pixels: list[Any],
) -> None:
    assert image_pixels(context(pixels), 1) is pixels[1]


def test_another_process_reads_them(pixels: list[Any]) -> None:
    shared = SharedPixels(context(pixels))
    other = context(pixels)
    shared.replace_pixels(other)
    reference = other.extra_model_args[SHARED_PIXELS].tolist()
    program = (
        "import sys, numpy as np\n"
        "from types import SimpleNamespace as N\n"
        "from mllama.image_cache.shared_pixels import image_pixels\n"
        "image = N(pixel_values=np.empty((4, 3, 0, 8), np.uint8))\n"
        f"args = {{{SHARED_PIXELS!r}: np.array({reference})}}\n"
        "context = N(images=[None, image], extra_model_args=args)\n"
        "sys.stdout.buffer.write(image_pixels(context, 1).tobytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.stdout == pixels[1].tobytes(), done.stderr.decode()
    shared.close()


@pytest.mark.parametrize("is_reused", [False, True])
def test_the_pixels_end_with_the_request(pixels: list[Any], is_reused: bool) -> None:
    shared = SharedPixels(context(pixels))
    other = context(pixels)
    shared.replace_pixels(other)
    descriptor = int(other.extra_model_args[SHARED_PIXELS][1])
    shared.close()
    newer = SharedPixels(context(pixels[::-1])) if is_reused else None
    if newer is not None:
        # The lowest free descriptor, as that of the next request.
        assert os.fstat(descriptor).st_size == sum(each.nbytes for each in pixels)
    with pytest.raises(RuntimeError, match="the request has ended"):
        image_pixels(other, 0)


def test_memory_is_freed_with_the_object(pixels: list[Any]) -> None:
    shared = SharedPixels(context(pixels))
    other = context(pixels)
    shared.replace_pixels(other)
    del shared
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(int(other.extra_model_args[SHARED_PIXELS][1]))
