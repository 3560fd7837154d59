"""The answers and the errors of a batch: while it runs, and as files of the client."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from mllama.batch.output import JsonLines
from mllama.batch.seen_ids import SeenIds
from mllama.errors import MllamaError
from mllama.server.batches.records import BatchRecord, FileRecord, new_id, now
from mllama.server.batches.stores import BatchStores
from mllama.server.bodies.rejection import RequestRejected

_SAVE_SECONDS: Final = 1.0
"""How often the counts of a batch are written."""


class StorageFullError(Exception):
    """The answers of a batch don't fit the server's folder."""


class BatchResults:
    """The answers and the errors of a batch that runs, in a file each."""

    def __init__(
        self, batch: BatchRecord, stores: BatchStores, save: Callable[[], None]
    ) -> None:
        self._batch = batch
        self._stores = stores
        self._save = save
        self._saved = time.monotonic()
        self._files = [
            JsonLines(stores.results_path(batch, of_errors=of_errors))
            for of_errors in (False, True)
        ]

    def add_to(self, seen: SeenIds) -> None:
        """Notes what has been answered, and counts it."""
        counts = []
        for file in self._files:
            count = 0
            for identity in file.identities():
                seen.add_answer(identity)
                count += 1
            counts.append(count)
        self._batch.request_counts.completed, self._batch.request_counts.failed = counts

    def write(self, result: bytes, *, is_error: bool) -> None:
        """Writes an answer or an error, and counts it.

        Raises:
            StorageFullError: If there is no room.
            MllamaError: If the disk is full or fails.
        """
        try:
            self._stores.files.reserve(len(result))
        except RequestRejected as error:
            raise StorageFullError(str(error)) from None
        try:
            self._files[is_error].write(result, is_error=is_error)
        except MllamaError:
            self._stores.files.free(len(result))
            raise
        counts = self._batch.request_counts
        if is_error:
            counts.failed += 1
        else:
            counts.completed += 1
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self._saved = time.monotonic()
            # The counts are also those of the lines that have been written.
            with contextlib.suppress(OSError):
                self._save()

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()


def name_result_files(batch: BatchRecord, stores: BatchStores) -> None:
    """Notes in a batch which files its answers and errors become, before they do."""
    for of_errors in (False, True):
        path = stores.results_path(batch, of_errors=of_errors)
        if path.exists() and path.stat().st_size:
            name = "error_file_id" if of_errors else "output_file_id"
            setattr(batch, name, new_id("file-"))


def keep_result_files(batch: BatchRecord, stores: BatchStores) -> None:
    """Makes files of a batch's answers and errors, which their client can get.

    Doing it again does no harm: a file that the client has deleted since stays so.

    Raises:
        OSError: If the disk fails.
    """
    for file_id, of_errors in (
        (batch.output_file_id, False),
        (batch.error_file_id, True),
    ):
        path = stores.results_path(batch, of_errors=of_errors)
        if file_id is None:
            path.unlink(missing_ok=True)
            continue
        content = path if path.exists() else stores.files.content_path(file_id)
        if not content.exists():
            continue
        kind = "error" if of_errors else "output"
        stores.files.adopt(
            path,
            FileRecord(
                id=file_id,
                owner=batch.owner,
                bytes=content.stat().st_size,
                filename=f"{batch.id}_{kind}.jsonl",
                purpose="batch_output",
                expires_at=now() + batch.output_seconds,
            ),
        )
