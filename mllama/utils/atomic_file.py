"""Files that appear under their name when they are complete, and not before."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mllama.errors import MllamaError

_unfinished: set[Path] = set()


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A file ``NAME.part`` that takes a name when the block ends without an exception.

    Whatever ends the program meanwhile, the name holds what it held before.  Only a
    kill leaves the part, which the next attempt writes over.

    Args:
        target: The name.

    Yields:
        The part, empty.

    Raises:
        MllamaError: If another process is writing the file.
        OSError: If it can't be written.
    """
    part = target.with_name(f"{target.name}.part")
    with _locked(part, target) as file:
        _unfinished.add(part)
        try:
            file.truncate(0)
            yield part
            # Else a power failure could leave the name with nothing behind it.
            os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        finally:
            _unfinished.discard(part)


def write_small_file(target: Path, content: bytes) -> None:
    """Writes a file at once; of several processes that do, the last one's stays.

    Raises:
        OSError: If it can't be written.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@atexit.register
def remove_unfinished() -> None:
    """Removes the parts of this process, which is about to end."""
    for part in list(_unfinished):
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def _locked(part: Path, target: Path) -> Iterator[BinaryIO]:
    """The part, opened and held against other processes, which would mix theirs in."""
    busy = MllamaError(
        f"{target} is being written by another process; try again when it is done"
    )
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # A file system without locks: as good as it gets there.
        if not part.exists() or not os.path.samestat(
            os.fstat(file.fileno()), part.stat()
        ):
            raise busy  # Another process finished it between these two steps.
        yield file
