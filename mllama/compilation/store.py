"""A directory of compiled graphs: files that carry their own digest, and a manifest.

A graph's file is ``NAME-KEY-DIGEST.mef``: MAX's name of the graph, what it computes,
and its content's SHA-256.  The manifest is written last, and lists them, so that a
directory without one, or with a file that is missing or damaged, is never taken for
whole.
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

from mllama.compilation.manifest import Manifest
from mllama.errors import CompiledModelError
from mllama.utils.atomic_file import write_small_file

COMPILED_DIRECTORY = "compiled"
"""Where the cache keeps compiled models."""

MANIFEST = "manifest.json"
_FORMAT = 1
_FILE = re.compile(r"[A-Za-z0-9._-]+-[0-9a-f]{16}-(?P<digest>[0-9a-f]{32})\.mef")
_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True)
class GraphKey:
    """A graph's identity.

    Attributes:
        name: MAX's name of it.
        digest: 16 hexadecimal digits of a hash of what it computes.
    """

    name: str
    digest: str

    @classmethod
    def of(cls, name: str, description: str) -> GraphKey:
        """The key of a graph that a text describes to the last detail."""
        return cls(
            re.sub(r"[^A-Za-z0-9._-]", "_", name),
            hashlib.sha256(description.encode()).hexdigest()[:16],
        )

    @property
    def stem(self) -> str:
        """What the graph's files begin with."""
        return f"{self.name}-{self.digest}-"


class CompiledStore:
    """Graphs in a directory, found and added by their keys.

    Args:
        directory: Made when the first graph is added.
        files: Names of the graphs' files that are known to it.
    """

    def __init__(self, directory: Path, files: Iterable[str] = ()) -> None:
        self.directory = directory
        self._files = {name[: name.rindex("-") + 1]: name for name in files}

    @classmethod
    def open_verified(cls, directory: Path) -> tuple[Manifest, CompiledStore]:
        """A directory that was saved, checked to the last byte.

        Raises:
            CompiledModelError: If it is none, unfinished, damaged or of another format.
        """
        manifest, store = cls.open(directory)
        for name in store._files.values():
            _check(directory / name)
        return manifest, store

    @classmethod
    def open(cls, directory: Path) -> tuple[Manifest, CompiledStore]:
        """What a directory's manifest lists, whose graphs :meth:`find` checks.

        Raises:
            CompiledModelError: If it is none, unfinished or of another format.
        """
        path = directory / MANIFEST
        try:
            if path.stat().st_size > _LARGEST_MANIFEST:
                raise CompiledModelError("it is too large for a manifest")
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                raise CompiledModelError("it is of another format")
            manifest = Manifest.from_dict(content.get("compiled_for"))
            names = content.get("graphs")
            if not isinstance(names, list) or not all(
                isinstance(name, str) and _FILE.fullmatch(name) for name in names
            ):
                raise CompiledModelError("it names no graphs")
        except (FileNotFoundError, NotADirectoryError):
            raise CompiledModelError(
                f"{directory} holds no compiled model, or one that was not finished: "
                f"it has no {MANIFEST}; make it with `mllama compile --output "
                f"{directory}`"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise CompiledModelError(
                f"{path} can't be used: {error}; make the compiled model anew"
            ) from None
        return manifest, cls(directory, names)

    def find(self, key: GraphKey) -> Path | None:
        """The file of a graph; None if there is none, or it is damaged."""
        name = self._files.get(key.stem)
        if name is None:
            return None
        try:
            _check(self.directory / name)
        except CompiledModelError:
            return None
        return self.directory / name

    def find_added(self, key: GraphKey) -> Path | None:
        """As :meth:`find`, also if another process has added the graph."""
        for file in self.directory.glob(f"{key.stem}*.mef"):
            self._files[key.stem] = file.name
        return self.find(key)

    def add(self, key: GraphKey, export: Callable[[Path], None]) -> Path:
        """Keeps a graph.

        Args:
            key: The graph's.
            export: Writes its file to a path.

        Returns:
            The file.

        Raises:
            OSError: If it can't be written.
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
        """Declares the directory whole.

        Raises:
            OSError: If it can't be written.
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
        """Removes graphs of an earlier model that was saved in the same place."""
        for file in self.directory.glob("*.mef"):
            if file.name not in self._files.values():
                with suppress(OSError):
                    file.unlink()


def check_target(directory: Path) -> None:
    """Refuses a directory that graphs may not be saved into.

    Raises:
        CompiledModelError: If it holds something else, or can't be written.
    """
    try:
        if directory.is_dir():
            others = [
                entry.name
                for entry in directory.iterdir()
                if entry.name != MANIFEST and entry.suffix not in (".mef", ".part")
            ]
            if others:
                raise CompiledModelError(
                    f"{directory} holds other files ({sorted(others)[0]}); name a new "
                    "directory for the compiled model"
                )
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise CompiledModelError(
            f"the compiled model can't be written to {directory}: {error.strerror}"
        ) from None


def _check(file: Path) -> None:
    match = _FILE.fullmatch(file.name)
    try:
        found = _digest(file)
    except OSError as error:
        raise CompiledModelError(
            f"{file} can't be read: {error.strerror}; make the compiled model anew"
        ) from None
    if match is None or found != match["digest"]:
        raise CompiledModelError(f"{file} is damaged; make the compiled model anew")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
