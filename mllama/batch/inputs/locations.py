"""The files that an input names: paths, folders, globs, and URLs of fsspec."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from mllama.errors import MllamaError

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BRACES: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WILDCARDS: Final = re.compile(r"[*?\[]")

STDIN: Final = "-"


@dataclass(frozen=True)
class InputFile:
    """A file of an input.

    Attributes:
        name: What its records are called by: its path below the input's folder.
        path: Where it is.
        filesystem: Its file system of fsspec; None for this machine's.
    """

    name: str
    path: str
    filesystem: Any = None

    def __post_init__(self) -> None:
        # Bytes of a name that are no UTF-8 are lone surrogates, which no JSON can have.
        name = self.name.encode("utf-8", "surrogateescape")
        object.__setattr__(self, "name", name.decode("utf-8", "backslashreplace"))

    @property
    def suffix(self) -> str:
        """Returns the end of its name in lower case, such as ``.tar.gz``."""
        suffixes = Path(self.path).suffixes
        last = suffixes[-1].lower() if suffixes else ""
        if last in (".gz", ".bz2", ".xz") and len(suffixes) > 1:
            return suffixes[-2].lower() + last
        return last

    @property
    def url(self) -> str:
        """Returns the URL of a file of this machine."""
        return Path(os.path.abspath(self.path)).as_uri()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Opens it for reading.

        Raises:
            OSError: If it can't be.
        """
        if self.path == STDIN:
            yield sys.stdin.buffer
            return
        if self.filesystem is None:
            with open(self.path, "rb") as file:
                yield file
            return
        with self.filesystem.open(self.path, "rb") as file:
            yield file

    def size(self) -> int | None:
        """Returns its bytes; None if that isn't known."""
        try:
            if self.path == STDIN:
                return None
            if self.filesystem is None:
                return os.stat(self.path).st_size
            size: int | None = self.filesystem.size(self.path)
        except Exception:
            return None
        return size


def find_files(source: str, skipped: Path | None = None) -> Iterator[InputFile]:
    """Yields the files that an input names.

    Args:
        source: A path, a folder, a glob, a URL, or ``-``.  ``{000..012}`` stands for
            the numbers.
        skipped: A file or folder that is none of them.

    Raises:
        MllamaError: If there is no such file.
    """
    if source == STDIN:
        yield InputFile("stdin", STDIN)
        return
    braces = _BRACES.search(source)
    base = source if braces is None else _folder_of(source[: braces.start()])
    for each in _without_braces(source):
        if _URL.match(each):
            yield from _remote_files(each, base)
        else:
            yield from _local_files(each, base, skipped and skipped.resolve())


def _without_braces(source: str) -> Iterator[str]:
    braces = _BRACES.search(source)
    if braces is None:
        yield source
        return
    first, last = braces.groups()
    for number in range(int(first), int(last) + 1):
        middle = str(number).zfill(len(first))
        yield from _without_braces(
            source[: braces.start()] + middle + source[braces.end() :]
        )


def _folder_of(source: str) -> str:
    return source.rpartition("/")[0]


def _prefix(folder: str, base: str) -> str:
    """Returns what the names of a folder's files begin with.

    Args:
        folder: The folder.
        base: What all names of the input are relative to, if the folder is below it:
            the one before the first braces.  Files of folders whose names have braces
            would else have the same names.
    """
    below = folder[len(base) :].strip("/")
    return f"{below}/" if below else ""


def _local_files(source: str, base: str, skipped: Path | None) -> Iterator[InputFile]:
    if os.path.isfile(source):
        prefix = _prefix(_folder_of(source), base)
        yield InputFile(f"{prefix}{os.path.basename(source)}", source)
        return
    if os.path.isdir(source):
        yield from _below(source, _prefix(source, base), skipped)
        return
    wildcard = _WILDCARDS.search(source)
    if wildcard is None:
        raise MllamaError(f"there is no file or folder {source}")
    folder = os.path.dirname(source[: wildcard.start()])
    prefix = _prefix(folder, base)
    is_empty = True
    for path in glob.iglob(source, recursive=True):
        if os.path.isfile(path) and not _is_skipped(path, skipped):
            is_empty = False
            yield InputFile(f"{prefix}{os.path.relpath(path, folder or '.')}", path)
    if is_empty:
        raise MllamaError(f"no file matches {source}")


def _below(folder: str, prefix: str, skipped: Path | None) -> Iterator[InputFile]:
    """Yields the files below a folder, in the order of the file system.

    A sorted list of a million names would take memory.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or _is_skipped(entry.path, skipped):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(entry.path, f"{prefix}{entry.name}/", skipped)
                elif entry.is_file():
                    yield InputFile(f"{prefix}{entry.name}", entry.path)
    except OSError as error:
        raise MllamaError(f"{folder} can't be read: {error.strerror}") from error


def _is_skipped(path: str, skipped: Path | None) -> bool:
    if skipped is None or skipped.name not in path:
        return False
    resolved = Path(path).resolve()
    return resolved == skipped or skipped in resolved.parents


def _remote_files(source: str, base: str) -> Iterator[InputFile]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MllamaError(
            f"{source} needs fsspec: pip install 'mllama[batch]'"
        ) from None
    try:
        filesystem, path = url_to_fs(source)
        wildcard = _WILDCARDS.search(path)
        if wildcard is None and filesystem.isfile(path):
            prefix = _prefix(_folder_of(source), base)
            yield InputFile(prefix + path.rsplit("/", 1)[-1], path, filesystem)
            return
        if wildcard is None:
            folder, found = path.rstrip("/"), _walk(filesystem, path)
            prefix = _prefix(source, base)
        else:
            folder = _folder_of(path[: wildcard.start()])
            found = iter(sorted(filesystem.glob(path)))
            prefix = _prefix(_folder_of(_WILDCARDS.split(source, 1)[0]), base)
        is_empty = True
        for each in found:
            is_empty = False
            name = prefix + each.removeprefix(f"{folder}/")
            yield InputFile(name, each, filesystem)
        if is_empty:
            raise MllamaError(f"there is no file {source}")
    except MllamaError:
        raise
    # Without its package, such as s3fs for s3://, fsspec names it.  Clients of object
    # stores have errors of their own.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MllamaError(f"{source} can't be read: {reason}") from error


def _walk(filesystem: Any, folder: str) -> Iterator[str]:
    """Yields the files below a folder, one folder at a time."""
    for path, _, files in filesystem.walk(folder):
        for name in sorted(files):
            if not name.startswith("."):
                yield f"{path.rstrip('/')}/{name}"
