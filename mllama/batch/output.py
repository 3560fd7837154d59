"""Files of answers: appended to line by line, and continued by a later run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from filelock import FileLock, Timeout

from mllama.batch.results import answered_identity, may_begin_answer
from mllama.errors import MllamaError

CompleteShard = Callable[[Path], None]
"""Turns a complete shard of JSONL into its final form."""

DEFAULT_SHARD_LINES: Final = 100_000

_PREFIX: Final = "part-"
_SHARD: Final = re.compile(_PREFIX + r"\d{5,}\.(jsonl|parquet)")
_BLOCK: Final = 1 << 20


@contextmanager
def locked(output: Path, *, is_folder: bool) -> Iterator[None]:
    """Keeps other runs away from an output.

    Raises:
        MllamaError: If another run has it, or it can't be written.
    """
    name = output / ".lock" if is_folder else output.with_name(f".{output.name}.lock")
    try:
        (output if is_folder else output.parent).mkdir(parents=True, exist_ok=True)
        lock = FileLock(name, blocking=False).acquire()
    except Timeout:
        raise MllamaError(
            f"another run writes {output}; wait for its end, or name another output"
        ) from None
    except OSError as error:
        raise unwritable(output, error) from error
    with lock:
        yield


class JsonLines:
    """One file of answers that is appended to.

    Every line is handed to the system before the next one is made, so that a run that
    is killed loses none of them.

    Args:
        path: The file.  A last line without an end is removed, since the run that wrote
            it was killed meanwhile.  A file of something else is left as it is.

    Raises:
        MllamaError: If it can't be written, or does not begin with an answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as opened:
            try:
                self._file: BinaryIO = opened.enter_context(
                    path.open("a+b", buffering=0)
                )
                if not _begins_with_answer(self._file):
                    raise no_answer(path, 1)
                self.repaired = _remove_torn_line(self._file)
            except OSError as error:
                raise unwritable(path, error) from error
            opened.pop_all()

    def identities(self) -> Iterator[str]:
        """Yields what the answers in the file are known by.

        Raises:
            MllamaError: If a line is none of an answer.
        """
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield answered_identity(line)
                except MllamaError:
                    raise no_answer(self.path, number) from None

    def write(self, result: bytes, *, is_error: bool) -> None:
        """Appends a line.

        Raises:
            MllamaError: If it can't be written.
        """
        rest = memoryview(result)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            # A part of a line is no answer.
            with suppress(OSError):
                size = os.fstat(self._file.fileno()).st_size
                self._file.truncate(size - len(result) + len(rest))
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Writes everything to the disk, and closes the file."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            self._file.close()


class ShardFolder:
    """A folder with files of answers, each of which has so many lines at most.

    Args:
        folder: The folder.
        shard_lines: Lines of a file.
        complete: Gives a complete file its final form, whose name ends in ``suffix``.
        read_ids: Yields the identities of the answers in a final form.

    Raises:
        MllamaError: If it can't be written.
    """

    def __init__(
        self,
        folder: Path,
        shard_lines: int,
        complete: CompleteShard | None = None,
        read_ids: Callable[[Path], Iterator[str]] | None = None,
    ) -> None:
        self._folder = folder
        self._shard_lines = shard_lines
        self._complete = complete
        self._read_ids = read_ids
        self._current: JsonLines | None = None
        self._lines = 0
        self._next = 0
        self.repaired = 0

    def identities(self) -> Iterator[str]:
        """Yields what the answers in the folder are known by.

        Afterwards the folder can be written to.  A file that was complete and has not
        got its final form gets it here.

        Raises:
            MllamaError: If a file is none of answers.
        """
        shards = self._shards()
        for number, forms in sorted(shards.items()):
            self._next = number + 1
            path = self._folder / f"{_PREFIX}{number:05}.jsonl"
            if "parquet" in forms:
                if self._read_ids is None:
                    raise MllamaError(
                        f"{self._folder} has Parquet files: continue with "
                        "--output-format parquet, or name another output"
                    )
                yield from self._read_ids(path.with_suffix(".parquet"))
                if "jsonl" in forms:
                    # Only a file of answers has become the other one.
                    JsonLines(path).close()
                    path.unlink()
                continue
            shard = JsonLines(path)
            self.repaired += shard.repaired
            lines = 0
            for identity in shard.identities():
                lines += 1
                yield identity
            self._end_current()
            self._current, self._lines = shard, lines

    def _shards(self) -> dict[int, set[str]]:
        """Returns the forms in which the folder has each shard."""
        found: dict[int, set[str]] = {}
        for path in shards_of(self._folder):
            number = int(path.stem.removeprefix(_PREFIX))
            found.setdefault(number, set()).add(path.suffix.removeprefix("."))
        return found

    def write(self, result: bytes, *, is_error: bool) -> None:
        """Appends a line, to a new file if the last one is complete.

        Raises:
            MllamaError: If it can't be written.
        """
        if self._current is not None and self._lines >= self._shard_lines:
            self._end_current()
        if self._current is None:
            self._current = JsonLines(self._folder / f"{_PREFIX}{self._next:05}.jsonl")
            self._lines = 0
            self._next += 1
        self._current.write(result, is_error=is_error)
        self._lines += 1

    def _end_current(self) -> None:
        shard, self._current = self._current, None
        if shard is None:
            return
        shard.close()
        if self._complete is not None:
            self._complete(shard.path)

    def close(self, *, is_complete: bool) -> None:
        """Closes the last file.

        Args:
            is_complete: Whether it gets its final form; otherwise a later run
                continues it.
        """
        if is_complete:
            self._end_current()
        elif self._current is not None:
            self._current.close()


def shards_of(folder: Path) -> list[Path]:
    """Returns the files of answers in a folder, in their order."""
    return sorted(
        folder / entry.name
        for entry in os.scandir(folder)
        if _SHARD.fullmatch(entry.name)
    )


def _begins_with_answer(file: BinaryIO) -> bool:
    """Returns True if a file has an answer in its first line, or a part of one."""
    file.seek(0)
    length = 0
    while block := file.read(_BLOCK):
        # A long file of something else need not be read for the end of a line.
        if length == 0 and not block.lstrip().startswith(b"{"):
            return False
        if (end := block.find(b"\n")) >= 0:
            file.seek(0)
            try:
                answered_identity(file.read(length + end))
            except MllamaError:
                return False
            return True
        length += len(block)
    file.seek(0)
    return may_begin_answer(file.read(_BLOCK))


def _remove_torn_line(file: BinaryIO) -> int:
    """Cuts off what follows the last end of a line, and returns its bytes."""
    size = end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        block = file.read(end - start)
        if (last := block.rfind(b"\n")) >= 0:
            end = start + last + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return size - end


def no_answer(path: Path, number: int) -> MllamaError:
    """Returns the error of an output with a line that is no answer."""
    return MllamaError(
        f"line {number} of {path} is not an answer of a batch; name another output"
    )


def unwritable(path: Path, error: OSError) -> MllamaError:
    """Returns the error of an output that can't be written."""
    return MllamaError(f"{path} can't be written: {error.strerror or error}")
