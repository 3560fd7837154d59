"""Files that appear under their name only once they are complete."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mllama.errors import MllamaError

_unfinished: set[Path] = set()
_numbers = itertools.count()


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yields a file ``NAME.part`` and renames it to its target when the block succeeds.

    If the block or the program ends early, the target keeps its previous content and
    the partial file is removed.  Only a kill leaves the partial file; the next attempt
    overwrites it.

    The lock is on the partial file itself: a separate lock file, as the filelock
    package uses, would stay next to the user's file.

    Args:
        target: The file to write.

    Yields:
        The partial file, empty.

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
            # Otherwise a power failure could leave an empty file under the name.
            os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        finally:
            _unfinished.discard(part)


def write_small_file(target: Path, content: bytes) -> None:
    """Writes a file atomically; if several processes or threads do, the last one wins.

    Raises:
        OSError: If it can't be written.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}-{next(_numbers)}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@atexit.register
def remove_unfinished() -> None:
    """Removes the partial files of this process, which is about to end."""
    for part in list(_unfinished):
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def _locked(part: Path, target: Path) -> Iterator[BinaryIO]:
    """Yields the partial file, opened, with a lock that keeps other processes out."""
    busy = MllamaError(
        f"{target} is being written by another process; try again when it is done"
    )
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # The file system has no locks.
        if not part.exists() or not os.path.samestat(
            os.fstat(file.fileno()), part.stat()
        ):
            raise busy  # Another process finished it between opening and locking.
        yield file
