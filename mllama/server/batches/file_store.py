"""The files of clients on the disk, within bounds."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from mllama.server.batches.options import BatchOptions
from mllama.server.batches.record_store import RecordStore
from mllama.server.batches.records import FileRecord
from mllama.server.bodies.rejection import RequestRejected
from mllama.utils.sizes import format_bytes

_CONTENT: Final = ".content"


class FileStore(RecordStore[FileRecord]):
    """The files of clients, and those of answers.

    Args:
        folder: The folder.
        options: The limits.
    """

    def __init__(self, folder: Path, options: BatchOptions) -> None:
        super().__init__(folder, FileRecord, "file")
        self._options = options
        own = self._own_files()
        # Those whose record can't be read now, too.
        known = {file_id for file_id, end, _ in own if end == ".json"}
        for file_id, end, path in own:
            # Uploads that the last server didn't finish.
            if end == _CONTENT and file_id not in known:
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
        # The record is written first: contents without one are deleted at the next
        # start.  It is found last: a client may read the file from then on.
        is_new = self.find(record.id) is None
        if is_new:
            self._save_new(record)
        if source.exists():
            os.replace(source, self.content_path(record.id))
        if is_new:
            self._records[record.id] = record
