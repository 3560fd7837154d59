"""A directory of compiled graphs, with a manifest that lists them.

The file of a graph is called ``NAME-KEY-DIGEST.mef``, where NAME is the graph's name in
MAX, KEY a hash of what it computes and DIGEST the SHA-256 of the file.  The manifest is
written last, so a directory without a manifest is incomplete, and a file that is
missing or damaged is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mllama.compilation.manifest import MANIFEST, Manifest
from mllama.config.validation import one_line
from mllama.errors import CompiledModelError, quoted
from mllama.utils.atomic_file import write_small_file

COMPILED_DIRECTORY = "compiled"
"""The subdirectory of the cache for compiled models."""

_FORMAT = 2
_FILE = re.compile(r"[A-Za-z0-9._-]+-[0-9a-f]{16}-(?P<digest>[0-9a-f]{32})\.mef")
_MAX_MANIFEST_BYTES = 1 << 20


@checked_dataclass(frozen=True)
class _ManifestFile:
    """The content of a manifest file."""

    format: Literal[2]
    compiled_for: Manifest
    graphs: list[StrictStr]


@dataclass(frozen=True)
class GraphKey:
    """The identity of a compiled graph.

    Attributes:
        name: The graph's name in MAX.
        digest: The first 16 hexadecimal digits of the SHA-256 of its fingerprint.
    """

    name: str
    digest: str

    @classmethod
    def of(cls, name: str, fingerprint: str) -> GraphKey:
        """Returns the key of a graph whose fingerprint covers all that it computes."""
        return cls(
            re.sub(r"[^A-Za-z0-9._-]", "_", name),
            hashlib.sha256(fingerprint.encode()).hexdigest()[:16],
        )

    @property
    def stem(self) -> str:
        """The part of the file name before the digest."""
        return f"{self.name}-{self.digest}-"


class CompiledStore:
    """A directory of compiled graphs by key.

    Args:
        directory: The directory, which is created with the first graph.
        files: Names of the graph files that it has already.
    """

    def __init__(self, directory: Path, files: Iterable[str] = ()) -> None:
        self.directory = directory
        self._files = {name[: name.rindex("-") + 1]: name for name in files}

    @classmethod
    def open_verified(cls, directory: Path) -> tuple[Manifest, CompiledStore]:
        """Opens a directory after checking the digest of every graph.

        Raises:
            CompiledModelError: If the directory has no compiled model, is incomplete
                or damaged, or has another format.
        """
        manifest, store = cls.open(directory)
        for name in store._files.values():
            _verify(directory / name)
        return manifest, store

    @classmethod
    def open(cls, directory: Path) -> tuple[Manifest, CompiledStore]:
        """Opens a directory; :meth:`find` checks the digest of each graph later.

        Raises:
            CompiledModelError: If the directory has no compiled model, is incomplete
                or has another format.
        """
        path = directory / MANIFEST
        try:
            if path.stat().st_size > _MAX_MANIFEST_BYTES:
                raise CompiledModelError("it is too large for a manifest")
            content = TypeAdapter(_ManifestFile).validate_python(
                json.loads(path.read_text(encoding="utf-8"))
            )
            for name in content.graphs:
                if not _FILE.fullmatch(name):
                    raise CompiledModelError(
                        f"{quoted(name)} is not the name of a compiled graph's file"
                    )
        except (FileNotFoundError, NotADirectoryError):
            raise CompiledModelError(
                f"{directory} has no compiled model, or one that was not finished: "
                f"it has no {MANIFEST}; create it with `mllama compile --output "
                f"{directory}`"
            ) from None
        except ValidationError as error:
            raise CompiledModelError(
                f"{one_line(error, str(path))}; compile the model again"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise CompiledModelError(
                f"{path} can't be used: {error}; compile the model again"
            ) from None
        return content.compiled_for, cls(directory, content.graphs)

    @classmethod
    def open_or_create(cls, directory: Path) -> CompiledStore:
        """Opens a directory of the cache; an incomplete one counts as empty."""
        try:
            return cls.open(directory)[1]
        except CompiledModelError:
            return cls(directory)

    @property
    def is_used(self) -> bool:
        """Returns True if the directory has a graph."""
        return bool(self._files)

    def file_name(self, key: GraphKey) -> str | None:
        """Returns the file name of a graph that is listed, or None."""
        return self._files.get(key.stem)

    def find(self, key: GraphKey) -> Path | None:
        """Returns the file of a graph, or None if it is missing or damaged."""
        name = self.file_name(key)
        if name is None:
            return None
        try:
            _verify(self.directory / name)
        except CompiledModelError:
            return None
        return self.directory / name

    def find_added(self, key: GraphKey) -> Path | None:
        """Returns the file of a graph that another process may have added, or None."""
        for file in self.directory.glob(f"{key.stem}*.mef"):
            self._files[key.stem] = file.name
        return self.find(key)

    def add(self, key: GraphKey, export: Callable[[Path], None]) -> Path:
        """Adds a graph to the directory.

        Args:
            key: The key of the graph.
            export: Writes the graph to the given path.

        Returns:
            The file of the graph.

        Raises:
            OSError: If the file can't be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        part = self.directory / f"{key.stem}{os.getpid()}.part"
        try:
            export(part)
            name = f"{key.stem}{_digest(part)}.mef"
            part.replace(self.directory / name)
        finally:
            part.unlink(missing_ok=True)
        self._files[key.stem] = name
        return self.directory / name

    def write_manifest(self, manifest: Manifest) -> None:
        """Writes the manifest, which marks the directory as complete.

        Raises:
            OSError: If the manifest can't be written.
        """
        content = {
            "format": _FORMAT,
            "compiled_for": manifest.to_dict(),
            "graphs": sorted(self._files.values()),
        }
        write_small_file(
            self.directory / MANIFEST, (json.dumps(content, indent=1) + "\n").encode()
        )

    def remove_unlisted(self) -> None:
        """Removes the graphs of a model that was saved in this directory earlier.

        Files with names that this package doesn't make are the user's.
        """
        for file in self.directory.glob("*.mef"):
            if _FILE.fullmatch(file.name) and file.name not in self._files.values():
                with suppress(OSError):
                    file.unlink()


def check_target(directory: Path) -> None:
    """Checks that graphs can be saved to a directory, and creates it.

    Raises:
        CompiledModelError: If the directory has other files or can't be written.
    """
    try:
        if directory.is_dir():
            others = [
                entry.name
                for entry in directory.iterdir()
                if entry.name != MANIFEST
                and entry.suffix != ".part"
                and not _FILE.fullmatch(entry.name)
            ]
            if others:
                raise CompiledModelError(
                    f"{directory} has other files ({sorted(others)[0]}); name a new "
                    "directory for the compiled model"
                )
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise CompiledModelError(
            f"the compiled model can't be written to {directory}: {error.strerror}"
        ) from None


def _verify(file: Path) -> None:
    match = _FILE.fullmatch(file.name)
    try:
        found = _digest(file)
    except OSError as error:
        raise CompiledModelError(
            f"{file} can't be read: {error.strerror}; compile the model again"
        ) from None
    if match is None or found != match["digest"]:
        raise CompiledModelError(f"{file} is damaged; compile the model again")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
