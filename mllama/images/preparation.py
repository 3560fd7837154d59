"""Prepares images in threads: decodes, resizes, splits and hashes them.

Pillow, NumPy and hashlib release Python's lock while they work, so that images are
prepared on several cores while the caller's thread, such as a server's event loop, goes
on.  The threads are shared by the whole process, and wait while images that are being
decoded take more than ``MAX_DECODED_BYTES``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from PIL import Image

from mllama.images.load import ImageFile, open_image
from mllama.utils.cpu import usable_cores

if TYPE_CHECKING:
    # It loads transformers, which messages must not wait for.
    from mllama.images.preprocess import ImageProcessor, ImageTiles

MAX_DECODED_BYTES: Final = 512 * 2**20
"""Memory for the pixels of images that are being decoded; one image may take more."""

_NICENESS: Final = 5
"""How much later these threads get a core than those that generate tokens."""


class MemoryLimit:
    """Lets threads wait until the memory that they want is free.

    Args:
        limit: The memory in bytes.  A thread that wants more gets it alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Waits for a number of bytes, and holds them while the context is active.

        Threads get memory in the order in which they ask for it.
        """
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(
                lambda: (
                    self._waiting[0] is turn
                    and (self._used == 0 or self._used + size <= self._limit)
                )
            )
            self._waiting.popleft()
            self._used += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


_decoded_pixels = MemoryLimit(MAX_DECODED_BYTES)


def prepare_image(
    image: ImageFile | Image.Image | bytes,
    processor: ImageProcessor,
    formats: Sequence[str] = (),
) -> Future[ImageTiles]:
    """Starts to split an image into tiles.

    Args:
        image: An image file, a picture, or the content of an image file.
        processor: The checkpoint's image processor.
        formats: Pillow's names of the formats that a content may have; by default all
            that :func:`mllama.images.load.open_image` tries.

    Returns:
        The tiles.  The future raises ImageError if the image can't be used.
    """

    def prepare() -> ImageTiles:
        file = image if isinstance(image, ImageFile) else open_image(image, formats)
        with _decoded_pixels.reserve(file.decoded_bytes):
            return processor(file.decode())

    return _threads().submit(prepare)


def decode_image(file: ImageFile) -> Future[Image.Image]:
    """Starts to convert an image file to RGB.

    Returns:
        A picture of mode RGB.  The future raises ImageError if the image can't be used.
    """

    def decode() -> Image.Image:
        with _decoded_pixels.reserve(file.decoded_bytes):
            return file.decode()

    return _threads().submit(decode)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        usable_cores(), thread_name_prefix="mllama-images", initializer=_give_way
    )


def _give_way() -> None:
    """Lowers this thread's priority, which Linux has for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
