"""Records of clients' objects: they survive the server, and each change is atomic."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

from mllama.server.batches.records import Record, is_id
from mllama.server.bodies.rejection import RequestRejected
from mllama.utils.atomic_file import write_small_file

Kept = TypeVar("Kept", bound=Record)

_UNFINISHED: Final = re.compile(r"\.json\.\d+-\d+\.part")
"""What follows the id in the name of a record that was being written."""


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
        for object_id, end, path in self._own_files():
            if _UNFINISHED.fullmatch(end):
                path.unlink(missing_ok=True)
            elif end == ".json":
                # One that can't be read is of a disk that failed; others go on.
                with contextlib.suppress(ValueError, OSError):
                    record = kind.model_validate_json(path.read_bytes())
                    if record.id == object_id:
                        found.append(record)
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
            raise self.missing(object_id)
        return record

    def missing(self, object_id: str) -> RequestRejected:
        """Returns the error of a request for an object that there isn't."""
        return RequestRejected(
            f"No such {self._name}: {object_id[:80]!r}.", "id", status=404
        )

    def find(self, object_id: str | None) -> Kept | None:
        """Returns an object, or None if there is none of this id."""
        return None if object_id is None else self._records.get(object_id)

    def add(self, record: Kept) -> None:
        """Keeps a new object.

        Raises:
            OSError: If it can't be written.
        """
        self._save_new(record)
        self._records[record.id] = record

    def _save_new(self, record: Kept) -> None:
        """Writes a new object, which isn't found yet.

        Raises:
            OSError: If it can't be written.
        """
        record.number = self._next_number
        self._next_number += 1
        self.save(record)

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

    def _own_files(self) -> list[tuple[str, str, Path]]:
        """Returns the files that this package has made: id, rest of the name, path.

        The user may keep others in the folder, which are left alone.
        """
        own = []
        for path in self._folder.iterdir():
            object_id, dot, rest = path.name.partition(".")
            if is_id(object_id) and path.is_file():
                own.append((object_id, dot + rest, path))
        return own

    def _path(self, object_id: str) -> Path:
        return self._folder / f"{object_id}.json"
