"""Pixels of a request's images, in memory that several processes read.

The answers to one request have the same images.  The first answer brings their pixels
to the model's process.  When the others come, the image cache has the images already,
and needs their pixels only if it has evicted them meanwhile.  So the others bring a
reference, and the pixels stay with the process that made the request, in anonymous
memory that ends with it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

SHARED_PIXELS: Final = "shared_pixels"
"""Key of a context's ``extra_model_args``: int64 ``[4 + images]``, the id of the
process that has the memory, its descriptor there, the memory's device and inode, and
where each image begins."""

_HEAD: Final = 4


class SharedPixels:
    """A copy of the pixels of a request's images.

    Args:
        context: A context of the request, with the pixels.

    Raises:
        OSError: If there isn't enough memory.
    """

    def __init__(self, context: Any) -> None:
        self._descriptor: int | None = None
        descriptor = self._descriptor = os.memfd_create("mllama-pixels")
        starts, end = [], 0
        for image in context.images:
            starts.append(end)
            end += _write(descriptor, image.pixel_values)
        memory = os.fstat(descriptor)
        self._reference = np.array(
            [os.getpid(), descriptor, memory.st_dev, memory.st_ino, *starts], np.int64
        )

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def are_possible() -> bool:
        """Returns True if this system has such memory, as Linux has."""
        return hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()

    def replace_pixels(self, context: Any) -> None:
        """Replaces the pixels of another context of the request by a reference.

        Its images keep the numbers of their tiles and the shape of one.
        """
        context.images = [
            replace(image, pixel_values=image.pixel_values[:, :, :0])
            for image in context.images
        ]
        context.extra_model_args = context.extra_model_args | {
            SHARED_PIXELS: self._reference
        }

    def close(self) -> None:
        """Frees the memory.  Further calls do nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def image_pixels(context: Any, index: int) -> npt.NDArray[np.uint8]:
    """Returns an image's pixels, uint8 ``[tiles, channels, tile size, tile size]``.

    Args:
        context: A request's context.
        index: The image among the request's.

    Raises:
        RuntimeError: If the request has ended where it was made.
    """
    pixels: npt.NDArray[np.uint8] = context.images[index].pixel_values
    reference = context.extra_model_args.get(SHARED_PIXELS)
    if reference is None:
        return pixels
    tiles, channels, _, size = pixels.shape
    shared = np.empty((tiles, channels, size, size), np.uint8)
    process, descriptor, device, inode = map(int, reference[:_HEAD])
    read = 0
    with contextlib.suppress(OSError), _opened(process, descriptor) as file:
        memory = os.fstat(file)
        # Another request's memory may have the descriptor by now.
        if (memory.st_dev, memory.st_ino) == (device, inode):
            read = _read(file, shared, int(reference[_HEAD + index]))
    if read < shared.nbytes:
        raise RuntimeError("the request has ended, and so have its images' pixels")
    return shared


@contextlib.contextmanager
def _opened(process: int, descriptor: int) -> Any:
    file = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _write(file: int, pixels: npt.NDArray[np.uint8]) -> int:
    """Appends pixels and returns the number of bytes."""
    content = np.ascontiguousarray(pixels).data.cast("B")
    written = 0
    while written < len(content):
        written += os.write(file, content[written:])
    return written


def _read(file: int, pixels: npt.NDArray[np.uint8], start: int) -> int:
    """Fills an array from a place in a file, and returns the number of bytes."""
    content, read = pixels.data.cast("B"), 0
    while read < len(content):
        count = os.preadv(file, [content[read:]], start + read)
        if not count:
            break
        read += count
    return read
