"""A process that makes tiles of image files.

A thread would share Python's lock with the caller's: Pillow and NumPy release it while
they work and take it again hundreds of times for a photo, and a thread of low priority
that has it can lose its core.  A decoder that crashes would end the caller, too.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import TYPE_CHECKING, Any, Final

from mllama.errors import (
    EngineOverloadedError,
    EngineUnavailableError,
    ImageDecodeError,
    ImageError,
)
from mllama.images.header_limits import header_bytes
from mllama.images.worker_loop import run
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

CPU_SECONDS: Final = 120.0
"""Processor time that one image may take, however long that is on a busy machine."""

HEADER_CPU_SECONDS: Final = 10.0
"""Processor time that an image's header may take, which needs milliseconds of it."""

STUCK: Final = StuckLimits()
"""When a process doesn't go on with its image."""

_IMPORTS: Final = "mllama.images.fork_server_imports"

Reserve = Callable[[int], AbstractContextManager[object]]
"""Waits for a number of bytes, and holds them while the context is active."""


class WorkerProcess:
    """A process that makes tiles of image files, one at a time.

    It ends with the process that started it, however that ends.  One thread at a time
    may use it.

    Args:
        initialize: Is called in the process before anything else; it must be possible
            to pickle it.
        cpu_seconds: Processor time that one image may take.
        header_cpu_seconds: Processor time that its header may take.
    """

    def __init__(
        self,
        initialize: Callable[[], None] | None = None,
        cpu_seconds: float = CPU_SECONDS,
        header_cpu_seconds: float = HEADER_CPU_SECONDS,
    ) -> None:
        self._initialize = initialize
        self._cpu_seconds = cpu_seconds
        self._header_cpu_seconds = header_cpu_seconds
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
                target=run,
                args=(
                    connection,
                    self._initialize,
                    self._cpu_seconds,
                    self._header_cpu_seconds,
                ),
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

    def prepare(
        self,
        content: bytes,
        processor: ImageProcessor,
        reserve_header: Reserve = nullcontext,
        reserve_pixels: Reserve = nullcontext,
    ) -> ImageTiles:
        """Returns the tiles of an image file.

        Args:
            content: The file's content.
            processor: The checkpoint's image processor.
            reserve_header: Waits for the memory that the header may take.
            reserve_pixels: Waits for the memory that it takes to decode the image,
                which the header tells.

        Raises:
            ImageError: If the image can't be used, takes too much processor time or too
                much memory for its header, or a new process died of it.  The next image
                gets another process.
            EngineUnavailableError: If no process can be started.
            EngineOverloadedError: Of the memory that is waited for.
        """
        former = self.pid

        def exchange() -> ImageTiles | Exception:
            with reserve_header(header_bytes(len(content))):
                size = self._read_header(content, processor)
            return (
                size
                if isinstance(size, Exception)
                else self._decode(reserve_pixels(size))
            )

        try:
            prepared = exchange()
        except ImageDecodeError:
            # A process that had other images before may have died of something else.
            if former is None:
                raise
            prepared = exchange()
        if isinstance(prepared, Exception):
            try:
                raise prepared
            finally:
                # It holds this frame, and would hold itself and the content by it.
                del prepared
        return prepared

    def _read_header(
        self, content: bytes, processor: ImageProcessor
    ) -> int | Exception:
        """Returns the memory that decoding takes, or the image's error.

        Raises:
            ImageError: If the process died.
        """
        connection = self.start()
        with self._waiting("its header", self._header_cpu_seconds):
            connection.send(processor)
            # This travels as it is: pickling would copy it and hold Python's lock.
            connection.send_bytes(content)
            answer: int | Exception = connection.recv()
            return answer

    def _decode(self, memory: AbstractContextManager[object]) -> ImageTiles | Exception:
        """Returns the tiles of the image whose header was read, or its error.

        Raises:
            ImageError: If the process died.
            EngineOverloadedError: If the memory isn't free in time.
            EngineUnavailableError: If the system has no thread for the watch.
        """
        connection = self._connection
        assert connection is not None
        try:
            with memory, self._waiting("it", self._cpu_seconds):
                connection.send(True)
                result, sizes = connection.recv()
                buffers = [bytearray(size) for size in sizes]
                for buffer in buffers:
                    connection.recv_bytes_into(buffer)
        except (EngineOverloadedError, EngineUnavailableError):
            # The process drops the image.  One that has died is replaced later.
            with contextlib.suppress(OSError):
                connection.send(False)
            raise
        prepared: ImageTiles | Exception = pickle.loads(result, buffers=buffers)
        return prepared

    @contextlib.contextmanager
    def _waiting(self, subject: str, cpu_seconds: float) -> Iterator[None]:
        """Kills the process if it gets stuck in the context, and says if it died.

        Args:
            subject: What it works on.
            cpu_seconds: Processor time that this may take.

        Raises:
            ImageError: If it died.
            EngineUnavailableError: If the system has no thread for this.
        """
        process = self._process
        assert process is not None
        try:
            with killed_if_stuck(lambda: process.pid, lambda _: process.kill(), STUCK):
                yield
        except NoThreadError as error:
            raise EngineUnavailableError(
                "images can't be decoded at the moment; try again"
            ) from error
        # The pipe ends with the process.
        except (EOFError, OSError) as error:
            raise self._died(subject, cpu_seconds) from error

    def _died(self, subject: str, cpu_seconds: float) -> ImageError:
        """Ends what is left of the process, and returns the image's error."""
        assert self._process is not None
        self._process.join(1)
        code = self._process.exitcode
        logger.warning("a process that decodes images died (exit code %s)", code)
        self.close()
        if code == -signal.SIGPROF:
            # Another process would take as long.
            return ImageError(
                f"the image can't be decoded: {subject} takes more than "
                f"{cpu_seconds:g} s of a processor"
            )
        return ImageDecodeError(
            "the image can't be decoded: the process that decoded it died "
            f"(exit code {code})"
        )
