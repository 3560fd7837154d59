"""A process that makes tiles of image files.

A thread would share Python's lock with the caller's: Pillow and NumPy release it while
they work and take it again hundreds of times for a photo, and a thread of low priority
that has it can lose its core.  A decoder that crashes would end the caller, too.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import TYPE_CHECKING, Any, Final

from mllama.errors import EngineUnavailableError, ImageDecodeError, ImageError
from mllama.images.formats import ignore_warnings
from mllama.images.load import open_image
from mllama.utils.allocator import limit_allocator
from mllama.utils.child_processes import restore_child_environment
from mllama.utils.fork_server import join_process, start_process
from mllama.utils.stuck_processes import (
    NoThreadError,
    StuckLimits,
    killed_if_stuck,
)

if TYPE_CHECKING:
    # It loads transformers, which the caller may not need.
    from mllama.images.preprocess import ImageProcessor, ImageTiles

logger = logging.getLogger("mllama")

NICENESS: Final = 10
"""How much later the process gets a core than those that generate tokens."""

CPU_SECONDS: Final = 120.0
"""Processor time that one image may take, however long that is on a busy machine."""

STUCK: Final = StuckLimits()
"""When a process doesn't go on with its image."""

_IMPORTS: Final = "mllama.images.fork_server_imports"


class WorkerProcess:
    """A process that makes tiles of image files, one at a time.

    It ends with the process that started it, however that ends.  One thread at a time
    may use it.

    Args:
        initialize: Is called in the process before anything else; it must be possible
            to pickle it.
        cpu_seconds: Processor time that one image may take.
    """

    def __init__(
        self,
        initialize: Callable[[], None] | None = None,
        cpu_seconds: float = CPU_SECONDS,
    ) -> None:
        self._initialize = initialize
        self._cpu_seconds = cpu_seconds
        self._process: ForkServerProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    @property
    def pid(self) -> int | None:
        """Returns the id of the process, or None before it is started."""
        return None if self._process is None else self._process.pid

    def start(self) -> Connection[Any, Any]:
        """Starts the process unless it runs, and returns the connection to it.

        Raises:
            EngineUnavailableError: If the system has no room for it.
        """
        # Between two images there is nothing to read but the end of a dead process.
        if self._connection is not None and not self._connection.poll():
            return self._connection
        self.close()
        # A caller that has imported MAX would start a Python without any packages.
        restore_child_environment()
        context = get_context("forkserver")
        # The fork server reads this when it starts, with the first process.
        context.set_forkserver_preload([_IMPORTS])
        try:
            self._start(context)
        # The fork server itself may be killed meanwhile.
        except (OSError, EOFError) as error:
            logger.warning("no process that decodes images can be started: %s", error)
            raise EngineUnavailableError(
                "images can't be decoded at the moment; try again"
            ) from error
        assert self._connection is not None
        return self._connection

    def _start(self, context: ForkServerContext) -> None:
        own, connection = context.Pipe()

        def make() -> ForkServerProcess:
            return context.Process(
                target=_run,
                args=(connection, self._initialize, self._cpu_seconds),
                name="mllama-images",
                daemon=True,
            )

        try:
            process = start_process(make)
        except BaseException:
            own.close()
            raise
        finally:
            connection.close()
        self._connection, self._process = own, process

    def close(self) -> None:
        """Ends the process."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            # One that is stopped would keep other signals for later.
            self._process.kill()
            join_process(self._process)
        self._process = self._connection = None

    def prepare(self, content: bytes, processor: ImageProcessor) -> ImageTiles:
        """Returns the tiles of an image file.

        Args:
            content: The file's content.
            processor: The checkpoint's image processor.

        Raises:
            ImageError: If the image can't be used, takes too much processor time, or a
                new process died of it.  The next image gets another process.
            EngineUnavailableError: If no process can be started.
        """
        former = self.pid
        try:
            prepared = self._exchange(content, processor)
        except ImageDecodeError:
            # A process that had other images before may have died of something else.
            if former is None:
                raise
            prepared = self._exchange(content, processor)
        if isinstance(prepared, Exception):
            raise prepared
        return prepared

    def _exchange(
        self, content: bytes, processor: ImageProcessor
    ) -> ImageTiles | Exception:
        """Returns the process's answer, or raises the image's error if it died."""
        connection = self.start()
        process = self._process
        assert process is not None
        try:
            with killed_if_stuck(lambda: process.pid, lambda _: process.kill(), STUCK):
                connection.send(processor)
                # These travel as they are: pickling would copy them and hold Python's
                # lock.
                connection.send_bytes(content)
                result, sizes = connection.recv()
                buffers = [bytearray(size) for size in sizes]
                for buffer in buffers:
                    connection.recv_bytes_into(buffer)
        except NoThreadError as error:
            raise EngineUnavailableError(
                "images can't be decoded at the moment; try again"
            ) from error
        # The pipe ends with the process.
        except (EOFError, OSError) as error:
            raise self._died() from error
        prepared: ImageTiles | Exception = pickle.loads(result, buffers=buffers)
        return prepared

    def _died(self) -> ImageError:
        """Ends what is left of the process, and returns the image's error."""
        assert self._process is not None
        self._process.join(1)
        code = self._process.exitcode
        logger.warning("a process that decodes images died (exit code %s)", code)
        self.close()
        if code == -signal.SIGPROF:
            # Another process would take as long.
            return ImageError(
                "the image can't be decoded: it takes more than "
                f"{self._cpu_seconds:g} s of a processor"
            )
        return ImageDecodeError(
            "the image can't be decoded: the process that decoded it died "
            f"(exit code {code})"
        )


def _run(
    connection: Connection[Any, Any],
    initialize: Callable[[], None] | None,
    cpu_seconds: float,
) -> None:
    """Makes tiles until the other end of the connection is closed."""
    _silence_libraries()
    if initialize is not None:
        initialize()
    # Ctrl-C reaches all processes of a terminal, but it is the server that ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_warnings()
    limit_allocator()
    os.nice(NICENESS)
    # A server that has ended shows in any of these ways.
    with contextlib.suppress(EOFError, OSError):
        while True:
            processor = connection.recv()
            content = connection.recv_bytes()
            # The system ends the process when its time is over.
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
            result = _prepare(content, processor)
            signal.setitimer(signal.ITIMER_PROF, 0)
            del content
            _answer(connection, result)
            del result


def _silence_libraries() -> None:
    """Drops what libraries in C write to stderr; Python's own messages stay.

    libtiff writes a line for each thing that is wrong with a picture.
    """
    sys.stderr = open(  # noqa: SIM115 - It is open until the process ends.
        os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace"
    )
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)


def _prepare(content: bytes, processor: ImageProcessor) -> ImageTiles | Exception:
    try:
        return processor(open_image(content).decode())
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
