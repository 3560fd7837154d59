"""All that a server keeps about batches, in a folder that is its own meanwhile."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

from filelock import FileLock, Timeout

from mllama.errors import MllamaError
from mllama.server.batches.file_store import FileStore
from mllama.server.batches.options import (
    FILES_OF_BATCH,
    MAX_OPEN_BATCHES,
    BatchOptions,
)
from mllama.server.batches.record_store import RecordStore
from mllama.server.batches.records import KEPT_SECONDS, BatchRecord, now
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.disk_thread import DiskThread


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

    def check_room_for_batch(self) -> None:
        """Checks that there may be another batch.

        Raises:
            RequestRejected: If too many haven't ended, or there would be too many
                files when all have.
        """
        waiting = sum(not each.is_over for each in self.batches)
        if waiting >= MAX_OPEN_BATCHES:
            raise RequestRejected(
                f"The server has {waiting} batches that haven't ended: try again "
                "later.",
                code="rate_limit_exceeded",
                status=429,
            )
        self._check_files(FILES_OF_BATCH)

    def check_room_for_file(self) -> None:
        """Checks that there may be another file.

        Raises:
            RequestRejected: If there are too many, with those of batches to come.
        """
        self._check_files(1)

    def _check_files(self, more: int) -> None:
        """Checks that there may be more files, beside those that batches will make."""
        limit = self.options.max_files
        coming = sum(
            self.files.find(file_id) is None
            for batch in self.batches
            if not batch.is_over
            for file_id in (batch.output_file_id, batch.error_file_id)
        )
        if len(self.files) + coming + more > limit:
            raise RequestRejected(
                f"The server keeps {limit} files at most (--batch-max-files): it has "
                f"{len(self.files)}, and {coming} places are for the answers of "
                "batches that haven't ended. Delete some files, or wait until a batch "
                "ends.",
                code="storage_limit_exceeded",
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
