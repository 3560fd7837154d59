"""Prepares images: decodes, resizes, splits and hashes them, several at a time.

Threads do it, since Pillow, NumPy and hashlib release Python's lock while they work.  A
server has processes do it (:func:`start_worker_processes`): its event loop must not
wait for the lock, nor share its memory with headers of any size.  The threads then wait
for the processes.  They are shared by the whole process, fairly among clients, and wait
while images that are being decoded take more than ``MAX_DECODED_BYTES``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from PIL import Image

from mllama.errors import EngineOverloadedError, EngineUnavailableError
from mllama.images.formats import file_content, ignore_warnings
from mllama.images.load import ImageFile, open_image
from mllama.images.worker_process import WorkerProcess
from mllama.utils.cpu import usable_cores
from mllama.utils.fair_queue import FairQueue
from mllama.utils.fair_threads import FairThreads, current_waiter

if TYPE_CHECKING:
    # It loads transformers, which messages must not wait for.
    from mllama.images.preprocess import ImageProcessor, ImageTiles

MAX_DECODED_BYTES: Final = 512 * 2**20
"""Memory for the pixels of images that are being decoded; one image may take more."""

MAX_HEADER_BYTES: Final = 512 * 2**20
"""Memory for images' headers that processes are reading; one image may take more."""

MAX_WAIT_SECONDS: Final = 300.0
"""The longest that an image of a server waits for its turn to be decoded."""

_RETRY_SECONDS: Final = 10

_END_SECONDS: Final = 5.0
"""How long the end of processes may take, on a busy machine."""

_END_LOOK_SECONDS: Final = 0.02

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
        self._queue = FairQueue()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(
        self, size: int, until: float | None = None, client: Hashable = None
    ) -> Iterator[None]:
        """Waits for a number of bytes, and holds them while the context is active.

        The client that holds least gets memory next, and the threads of one client in
        the order in which they ask for it.

        Args:
            size: The bytes.
            until: When they are given up, by ``time.monotonic``; None is never.
            client: Whose image it is.

        Raises:
            EngineOverloadedError: If they aren't free in time.
        """
        with self._changed:
            turn = self._queue.join(client, size)
            is_free = self._changed.wait_for(
                lambda: (
                    self._queue.first() is turn
                    and (self._used == 0 or self._used + size <= self._limit)
                ),
                None if until is None else max(0.0, until - time.monotonic()),
            )
            self._queue.leave(turn)
            if is_free:
                self._used += size
                self._queue.change_held(client, size)
            self._changed.notify_all()
        if not is_free:
            raise EngineOverloadedError(
                "other requests' images have left no memory to decode this one's in "
                "time; try again later",
                _RETRY_SECONDS,
            )
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._queue.change_held(client, -size)
                self._changed.notify_all()


_decoded_pixels = MemoryLimit(MAX_DECODED_BYTES)
_headers = MemoryLimit(MAX_HEADER_BYTES)

_MAX_PROCESSES: Final = 8
"""The limit for the number of processes, each of which takes memory."""


class WorkerProcesses:
    """Processes that make tiles of image files, as many at a time.

    Args:
        number: The number of processes.
        initialize: Is called in each process at its start.
    """

    def __init__(
        self, number: int, initialize: Callable[[], None] | None = None
    ) -> None:
        self.all = [WorkerProcess(initialize) for _ in range(number)]
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        for process in self.all:
            self._idle.put(process)
        self._taken: set[WorkerProcess] = set()
        self._has_ended = False

    def start_next(self) -> None:
        """Starts the process that would be taken next."""
        with self.take() as process:
            process.start()

    @contextmanager
    def take(self) -> Iterator[WorkerProcess]:
        """Waits for an idle process, and holds it while the context is active."""
        process = self._idle.get()
        self._taken.add(process)
        try:
            if self._has_ended:
                raise EngineUnavailableError("the server is shutting down")
            yield process
        finally:
            self._taken.remove(process)
            self._idle.put(process)

    def end(self) -> None:
        """Kills the processes that prepare images, and lets no other one begin."""
        self._has_ended = True
        end = time.monotonic() + _END_SECONDS
        # An image whose process has died may get another one, once.
        while (taken := list(self._taken)) and time.monotonic() < end:
            for process in taken:
                if (pid := process.pid) is not None:
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_END_LOOK_SECONDS)


_processes: WorkerProcesses | None = None


def start_worker_processes(initialize: Callable[[], None] | None = None) -> None:
    """Has processes prepare the contents of image files from now on.

    They start in the background and end with this process.  A program that calls this
    must bear that its main module is imported again, as ``multiprocessing`` requires.

    Args:
        initialize: Is called in each process at its start; it must be possible to
            pickle it.
    """
    global _processes
    ignore_warnings()
    if _processes is None:
        _processes = WorkerProcesses(_parallel_images(), initialize)
        for _ in _processes.all:
            _threads().submit(_processes.start_next)


def end_worker_processes() -> None:
    """Gives up all images, at the end of a server, which would wait for them."""
    global _processes
    processes, _processes = _processes, None
    if processes is None:
        return
    _threads().shutdown()
    _threads.cache_clear()
    processes.end()


def worker_process_ids() -> list[int]:
    """Returns the ids of the processes that prepare images, of those that run."""
    if _processes is None:
        return []
    return [pid for each in _processes.all if (pid := each.pid) is not None]


def prepare_image(
    image: ImageFile | Image.Image | bytes, processor: ImageProcessor
) -> Future[ImageTiles]:
    """Starts to split an image into tiles.

    Args:
        image: An image file, a picture, or the content of an image file.
        processor: The checkpoint's image processor.

    Returns:
        The tiles.  The future raises ImageError if the image can't be used, and in a
        server EngineOverloadedError if others' leave it no memory in time.
    """
    processes = _processes
    until = None if processes is None else time.monotonic() + MAX_WAIT_SECONDS
    client = current_waiter().client

    def prepare() -> ImageTiles:
        if isinstance(image, bytes) and processes is not None:
            with processes.take() as process:
                return process.prepare(
                    image,
                    processor,
                    lambda size: _headers.reserve(size, until, client),
                    lambda size: _decoded_pixels.reserve(size, until, client),
                )
        file = image if isinstance(image, ImageFile) else open_image(image)
        with _decoded_pixels.reserve(file.decoded_bytes, until, client):
            return processor(file.decode())

    return _threads().submit(prepare)


def decode_image(file: ImageFile) -> Future[Image.Image]:
    """Starts to convert an image file to RGB.

    Returns:
        A picture of mode RGB.  The future raises ImageError if the image can't be used.
    """

    client = current_waiter().client

    def decode() -> Image.Image:
        with _decoded_pixels.reserve(file.decoded_bytes, client=client):
            return file.decode()

    return _threads().submit(decode)


def check_image(file: ImageFile) -> Future[bytes | Image.Image]:
    """Starts to check that an image can be decoded, without keeping its pixels.

    Returns:
        The content of the image file, which takes a tenth of the memory, or the picture
        if it is of no file.  The future raises ImageError if the image can't be used.
    """
    content = file_content(file.picture)
    if content is None:
        checked: Future[bytes | Image.Image] = Future()
        checked.set_result(file.picture)
        return checked

    client = current_waiter().client

    def check() -> bytes | Image.Image:
        with _decoded_pixels.reserve(file.decoded_bytes, client=client):
            file.decode()
        return content

    return _threads().submit(check)


def _parallel_images() -> int:
    return min(usable_cores(), _MAX_PROCESSES)


@cache
def _threads() -> FairThreads:
    return FairThreads(
        usable_cores() if _processes is None else len(_processes.all),
        "mllama-images",
        # Threads that wait for processes need a core as soon as they have Python's
        # lock, or everybody waits for it.
        initializer=_give_way if _processes is None else None,
    )


def _give_way() -> None:
    """Lowers this thread's priority, which Linux has for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
