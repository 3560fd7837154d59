"""Files and batches on the disk: they survive the server, and each change is atomic."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock, Timeout

from mllama.errors import MllamaError
from mllama.server.batches.options import MAX_OPEN_BATCHES, BatchOptions
from mllama.server.batches.records import (
    KEPT_SECONDS,
    BatchRecord,
    FileRecord,
    Record,
    now,
)
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.disk_thread import DiskThread
from mllama.utils.atomic_file import write_small_file
from mllama.utils.sizes import format_bytes

Kept = TypeVar("Kept", bound=Record)

_CONTENT = ".content"


class RecordStore(Generic[Kept]):
    """Objects of one kind, each in a file of JSON.

    Args:
        folder: The folder.
        kind: Their class.
        name: What errors call them.
    """

    def __init__(self, folder: Path, kind: type[Kept], name: str) -> None:
        self._folder = folder
        self._name = name
        self._writing = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for path in folder.glob("*.json"):
            # One that can't be read is of a disk that failed; others go on.
            with contextlib.suppress(ValueError, OSError):
                found.append(kind.model_validate_json(path.read_bytes()))
        found.sort(key=lambda record: record.number)
        self._records = {record.id: record for record in found}
        self._next_number = found[-1].number + 1 if found else 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Kept]:
        """Iterates over all, the oldest first."""
        return iter(list(self._records.values()))

    def of(self, owner: str) -> list[Kept]:
        """Returns those of an owner, the newest first."""
        # The disk's thread may add one meanwhile.
        mine = [each for each in list(self._records.values()) if each.owner == owner]
        return mine[::-1]

    def get(self, object_id: str, owner: str) -> Kept:
        """Returns an object of an owner.

        Raises:
            RequestRejected: If the owner has none of this id.
        """
        record = self._records.get(object_id)
        if record is None or record.owner != owner:
            raise RequestRejected(
                f"No such {self._name}: {object_id[:80]!r}.", "id", status=404
            )
        return record

    def find(self, object_id: str | None) -> Kept | None:
        """Returns an object, or None if there is none of this id."""
        return None if object_id is None else self._records.get(object_id)

    def add(self, record: Kept) -> None:
        """Keeps a new object.

        Raises:
            OSError: If it can't be written.
        """
        record.number = self._next_number
        self._next_number += 1
        self.save(record)
        self._records[record.id] = record

    def save(self, record: Kept) -> None:
        """Writes an object that has changed.  Any thread may call it.

        Raises:
            OSError: If it can't be written.
        """
        # Otherwise an older state could be written after a newer one.
        with self._writing:
            content = record.model_dump_json(indent=1).encode()
            write_small_file(self._path(record.id), content)

    def remove(self, record: Kept) -> None:
        """Forgets an object."""
        self._path(record.id).unlink(missing_ok=True)
        self._records.pop(record.id, None)

    def _path(self, object_id: str) -> Path:
        return self._folder / f"{object_id}.json"


class FileStore(RecordStore[FileRecord]):
    """The files of clients, and those of answers.

    Args:
        folder: The folder.
        options: The limits.
    """

    def __init__(self, folder: Path, options: BatchOptions) -> None:
        super().__init__(folder, FileRecord, "file")
        self._options = options
        # Those of records that can't be read now, too.
        known = {f"{path.stem}{_CONTENT}" for path in folder.glob("*.json")}
        for path in folder.iterdir():
            # Uploads that the last server didn't finish.
            if path.suffix != ".json" and path.name not in known:
                path.unlink(missing_ok=True)
        self._used = sum(record.bytes for record in self)
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Returns the bytes of all files, and of those that are being written."""
        return self._used

    def content_path(self, file_id: str) -> Path:
        """Returns where a file's content is, or will be."""
        return self._folder / f"{file_id}{_CONTENT}"

    def check_room(self) -> None:
        """Checks that there may be another file.

        Raises:
            RequestRejected: If there are too many.
        """
        if len(self) >= self._options.max_files:
            raise RequestRejected(
                f"The server has {len(self)} files, as many as it keeps "
                "(--batch-max-files): delete some.",
                code="storage_limit_exceeded",
                status=429,
            )

    def reserve(self, size: int) -> None:
        """Takes room on the disk.

        Raises:
            RequestRejected: If there isn't so much.
        """
        with self._lock:
            if self._used + size <= self._options.max_disk_bytes:
                self._used += size
                return
        limit = format_bytes(self._options.max_disk_bytes)
        raise RequestRejected(
            f"The server's files would exceed {limit} (--batch-max-disk): delete some.",
            code="storage_limit_exceeded",
            status=429,
        )

    def free(self, size: int) -> None:
        """Gives room back; a negative size is room that is taken already."""
        with self._lock:
            self._used -= size

    def remove(self, record: FileRecord) -> None:
        """Deletes a file."""
        super().remove(record)
        self.content_path(record.id).unlink(missing_ok=True)
        self.free(record.bytes)

    def adopt(self, source: Path, record: FileRecord) -> None:
        """Makes a file of a batch one of the client's.

        Its room has been reserved.  Doing it again after a crash does no harm.

        Args:
            source: Its content, which is moved.
            record: What is known about it.

        Raises:
            OSError: If it can't be moved.
        """
        # The record comes first: contents without one are deleted at the next start.
        if self.find(record.id) is None:
            self.add(record)
        if source.exists():
            os.replace(source, self.content_path(record.id))


class BatchStores:
    """All that the server keeps about batches.

    Attributes:
        options: Its limits.
        files: The files.
        batches: The batches.
        disk: Does everything here that reads or writes files, while the server runs.

    Args:
        options: Where it is, and its limits.

    Raises:
        MllamaError: If another server uses the folder, or it can't be written.
    """

    def __init__(self, options: BatchOptions) -> None:
        self.options = options
        self.disk = DiskThread()
        folder = options.directory
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = FileLock(folder / ".lock", blocking=False)
            self._lock.acquire()
            self.files = FileStore(folder / "files", options)
            self.batches = RecordStore(folder / "batches", BatchRecord, "batch")
            self._count_results()
        except Timeout:
            raise MllamaError(
                f"--batch-dir {folder} is used by another server"
            ) from None
        except OSError as error:
            raise MllamaError(
                f"--batch-dir {folder} can't be used: {error.strerror or error}"
            ) from error

    def _count_results(self) -> None:
        """Counts what batches have written that are not files yet."""
        for batch in self.batches:
            for of_errors, file_id in (
                (False, batch.output_file_id),
                (True, batch.error_file_id),
            ):
                path = self.results_path(batch, of_errors=of_errors)
                if self.files.find(file_id) is None and path.exists():
                    self.files.free(-path.stat().st_size)

    def results_path(self, batch: BatchRecord, *, of_errors: bool) -> Path:
        """Returns where the answers, or the errors, of a running batch are."""
        kind = "errors" if of_errors else "answers"
        return self.options.directory / "batches" / f"{batch.id}.{kind}.jsonl"

    def check_room(self) -> None:
        """Checks that there may be another batch.

        Raises:
            RequestRejected: If too many haven't ended.
        """
        waiting = sum(not each.is_over for each in self.batches)
        if waiting >= MAX_OPEN_BATCHES:
            raise RequestRejected(
                f"The server has {waiting} batches that haven't ended: try again "
                "later.",
                code="rate_limit_exceeded",
                status=429,
            )

    def add_batch(self, batch: BatchRecord) -> None:
        """Keeps a new batch, and forgets one that has ended if there are too many.

        It is the oldest one of the owner who has most.

        Raises:
            OSError: If it can't be written.
        """
        self.batches.add(batch)
        ended = [each for each in self.batches if each.is_over]
        if len(self.batches) <= self.options.max_files or not ended:
            return
        counts = Counter(each.owner for each in ended)
        oldest = min(ended, key=lambda each: (-counts[each.owner], each.number))
        with contextlib.suppress(OSError):
            self._forget(oldest)

    def uses(self, file_id: str) -> bool:
        """Returns True if a batch that hasn't ended reads a file."""
        return any(
            each.input_file_id == file_id and not each.is_over for each in self.batches
        )

    def remove_expired(self) -> None:
        """Deletes files whose time is over, and batches that ended long ago."""
        for file in self.files:
            if file.expires_at <= now() and not self.uses(file.id):
                self.files.remove(file)
        for batch in self.batches:
            if batch.is_over and batch.created_at + KEPT_SECONDS <= now():
                self._forget(batch)

    def _forget(self, batch: BatchRecord) -> None:
        """Forgets a batch that has ended; the files of its answers stay."""
        for of_errors in (False, True):
            path = self.results_path(batch, of_errors=of_errors)
            # Only one that failed by an error of the server still has them.
            if path.exists():
                self.files.free(path.stat().st_size)
                path.unlink()
        self.batches.remove(batch)

    def close(self) -> None:
        """Finishes what is being written, and lets another server use the folder."""
        self.disk.close()
        self._lock.release()
