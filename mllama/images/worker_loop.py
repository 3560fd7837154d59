"""What a process does that makes tiles of image files."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mllama.images.formats import ignore_warnings
from mllama.images.header_limits import open_with_limit
from mllama.images.load import ImageFile
from mllama.utils.allocator import limit_allocator

if TYPE_CHECKING:
    # It loads transformers, which the caller may not need.
    from mllama.images.preprocess import ImageProcessor, ImageTiles

NICENESS: Final = 10
"""How much later the process gets a core than those that generate tokens."""

_Result = TypeVar("_Result")


def run(
    connection: Connection[Any, Any],
    initialize: Callable[[], None] | None,
    cpu_seconds: float,
    header_cpu_seconds: float,
) -> None:
    """Makes tiles until the other end of the connection is closed.

    Args:
        connection: Brings a processor and an image file, gets the memory that decoding
            takes, and then, if True comes back, the tiles.
        initialize: Is called before anything else.
        cpu_seconds: Processor time that one image may take.
        header_cpu_seconds: Processor time that its header may take.
    """
    _silence_libraries()
    if initialize is not None:
        initialize()
    # Ctrl-C reaches all processes of a terminal, but it is the server that ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_warnings()
    limit_allocator()
    # Looking through what it shares with the process that forked it would copy that.
    gc.freeze()
    os.nice(NICENESS)
    # A server that has ended shows in any of these ways.
    with contextlib.suppress(EOFError, OSError):
        while True:
            _make_tiles(connection, cpu_seconds, header_cpu_seconds)


def _make_tiles(
    connection: Connection[Any, Any], cpu_seconds: float, header_cpu_seconds: float
) -> None:
    processor = connection.recv()
    content = connection.recv_bytes()
    with _cpu_limit(header_cpu_seconds):
        opened = _result(open_with_limit, content)
    del content
    if isinstance(opened, Exception):
        connection.send(opened)
        return
    file, decoded_bytes = opened
    connection.send(decoded_bytes)
    if not connection.recv():
        return
    files = [file]
    del opened, file
    with _cpu_limit(cpu_seconds):
        result = _result(_tiles, files, processor)
    _answer(connection, result)


def _tiles(files: list[ImageFile], processor: ImageProcessor) -> ImageTiles:
    # Its pixels are not needed while there are those in RGB.
    return processor(files.pop().decode())


@contextlib.contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Has the system end this process when it takes more of a processor."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _silence_libraries() -> None:
    """Drops what libraries in C write to stderr; Python's own messages stay.

    libtiff writes a line for each thing that is wrong with a picture.
    """
    sys.stderr = open(  # noqa: SIM115 - It is open until the process ends.
        os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace"
    )
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)


def _result(compute: Callable[..., _Result], *arguments: Any) -> _Result | Exception:
    """Returns what a function returns, or its error without the frames."""
    try:
        return compute(*arguments)
    except Exception as error:
        failure = error
    # The frames of tracebacks hold the picture, and each other.
    failure.__traceback__ = failure.__cause__ = failure.__context__ = None
    gc.collect()
    return failure


def _answer(connection: Connection[Any, Any], result: ImageTiles | Exception) -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    connection.send((pickled, [view.nbytes for view in views]))
    for view in views:
        connection.send_bytes(view)
