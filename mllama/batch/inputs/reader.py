"""Reads an input of any kind as lines of a batch."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from mllama.batch.inputs.locations import STDIN, InputFile, find_files
from mllama.batch.inputs.parquet import import_parquet, read_rows
from mllama.batch.inputs.question import Question, wrong
from mllama.batch.inputs.webdataset import PICTURE_ENDS, read_samples
from mllama.batch.lines import BatchLine, read_lines
from mllama.errors import MllamaError
from mllama.images.fetch import MAX_BYTES

Kind = Literal["lines", "picture", "parquet", "tar"]

_KINDS: Final[dict[str, Kind]] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".parquet": "parquet",
    ".tar": "tar",
    ".tgz": "tar",
    **{f".{end}": "picture" for end in PICTURE_ENDS},
}
_PACKED: Final[dict[str, Callable[[Any], Any]]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}

_UNREADABLE: Final = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)
"""What reading a damaged file of this machine raises."""


class InputReader:
    """The lines of an input, read one after another.

    Files of a folder that are of no known kind are left out.  JSONL files are requests,
    which have their questions; those of other kinds are asked ``question``.

    Attributes:
        has_one_file: Whether the input is the path of one file.

    Args:
        source: A path, a folder, a glob, a URL of fsspec, or ``-``.
        question: What is asked about each picture.
        image_column: The column of Parquet files, or the end of the names in tar files,
            with the pictures.
        prompt_column: The same of the questions.
        id_column: The column of Parquet files with the rows' ids.
        output: Where the answers go, which is no part of the input.

    Raises:
        MllamaError: If there is no such input, a package or the question of any file is
            missing, or no file has such a column.
    """

    def __init__(
        self,
        source: str,
        question: Question,
        *,
        image_column: str | None = None,
        prompt_column: str | None = None,
        id_column: str | None = None,
        output: Path | None = None,
    ) -> None:
        self._question = question
        self._image_column = image_column
        self._prompt_column = prompt_column
        self._id_column = id_column
        self._number = 0
        self._source = source
        self._output = output
        self._position: Callable[[], float] = lambda: 0.0
        self._files_read = 0
        self._total_files: int | None = None
        self._is_over = False
        files = self._all_known()
        first = next(files, None)
        if first is None:
            raise MllamaError(
                f"{source} has no pictures, and no JSONL, Parquet or tar files"
            )
        self._first_kind: Kind = first[1]
        self.has_one_file = first[0].path in (source, source.partition("://")[2])
        if question.prompt is None:
            for kind in self._kinds:
                self._check_question(kind)
        self._check_columns()
        if first[1] == "parquet":
            import_parquet(first[0].name)
        self._is_remote = first[0].filesystem is not None or first[0].path == STDIN
        self._files = chain([first], files)

    @property
    def has_only_requests(self) -> bool:
        """Returns True if no file needs a question, since all are JSONL."""
        return self._kinds == {"lines"}

    @cached_property
    def _kinds(self) -> frozenset[Kind]:
        """Returns the kinds of the files, which may come in any order.

        A pattern's end tells them, where looking for thousands of URLs takes long.
        """
        pattern = _kind(InputFile(self._source, self._source))
        if pattern is not None and not Path(self._source).is_dir():
            return frozenset([self._first_kind, pattern])
        return frozenset(kind for _, kind in self._all_known())

    def _all_known(self) -> Iterator[tuple[InputFile, Kind]]:
        """Yields the files of known kinds, with their kinds."""
        for file in find_files(self._source, self._output):
            kind = _kind(file)
            if kind is not None:
                yield file, kind

    def _check_question(self, kind: Kind, name: str | None = None) -> None:
        asks = self._question.prompt is not None or self._prompt_column is not None
        if kind == "lines":
            return
        if not asks or (kind == "picture" and self._question.prompt is None):
            if name is None:
                names = (file.name for file, each in self._all_known() if each == kind)
                name = next(names, self._source)
            raise MllamaError(f"{name} needs a question about it: --prompt")

    def _check_columns(self) -> None:
        """Raises an error if an option fits none of the files."""
        options: tuple[tuple[str, str | None, tuple[Kind, ...], str], ...] = (
            (
                "--image-column",
                self._image_column,
                ("parquet", "tar"),
                "Parquet or tar",
            ),
            ("--id-column", self._id_column, ("parquet",), "Parquet"),
        )
        for name, value, kinds, wanted in options:
            # All options for questions are refused with requests alone.
            if value is None or self._kinds & {*kinds} or self.has_only_requests:
                continue
            raise MllamaError(
                f"{name} needs {wanted} files, and {self._source} has none"
            )

    def __iter__(self) -> Iterator[BatchLine]:
        """Yields the lines.  A file that can't be read is one line with an error."""
        if not self._is_remote:
            threading.Thread(
                target=self._count_files, name="mllama-batch-count", daemon=True
            ).start()
        for file, kind in self._files:
            start = self._number
            try:
                self._check_question(kind, file.name)
                for line in self._lines_of(file, kind):
                    yield replace(line, file=file.name, place=line.number - start)
            except MllamaError:
                raise
            except Exception as error:
                # Clients of object stores have errors of their own.
                if file.filesystem is None and not isinstance(error, _UNREADABLE):
                    raise
                self._number += 1
                reason = getattr(error, "strerror", None) or " ".join(
                    str(error).split()
                )
                line = wrong(
                    self._number,
                    file.name,
                    "unreadable_file",
                    f"{file.name} can't be read: {reason or type(error).__name__}.",
                )
                yield replace(line, file=file.name, place=self._number - start)
            self._files_read += 1
        self._is_over = True

    def _lines_of(self, file: InputFile, kind: Kind) -> Iterator[BatchLine]:
        if kind == "picture":
            yield self._picture(file)
            return
        with file.open() as raw:
            self._position = _position(raw, file.size())
            packing = next(
                (each for each in _PACKED if file.suffix.endswith(each)), None
            )
            content = raw if packing is None or kind == "tar" else _PACKED[packing](raw)
            start = self._number
            for line in self._records(content, file.name, kind, start + 1):
                if kind == "lines":
                    line = replace(line, number=start + line.number)
                self._number = line.number
                yield line
        self._position = lambda: 0.0

    def _records(
        self, file: BinaryIO, name: str, kind: Kind, first_number: int
    ) -> Iterator[BatchLine]:
        if kind == "lines":
            return read_lines(file)
        if kind == "parquet":
            return read_rows(
                file,
                name,
                self._question,
                on_count=partial(self._count_rows, first_number),
                image_column="image"
                if self._image_column is None
                else self._image_column or None,
                prompt_column=self._prompt_column,
                id_column=self._id_column,
                first_number=first_number,
            )
        return read_samples(
            file,
            name,
            self._question,
            image_end=self._image_column,
            prompt_end=self._prompt_column,
            first_number=first_number,
        )

    def _picture(self, file: InputFile) -> BatchLine:
        if file.filesystem is None:
            self._number += 1
            return self._question.line(self._number, file.name, [file.url])
        with file.open() as content:
            picture = content.read(MAX_BYTES + 1)
        self._number += 1
        if len(picture) > MAX_BYTES:
            return wrong(
                self._number,
                file.name,
                "invalid_image",
                f"{file.name} has more than {MAX_BYTES // 2**20} MiB.",
            )
        return self._question.line(self._number, file.name, [picture])

    def _count_rows(self, first_number: int, rows: int) -> None:
        self._position = lambda: (self._number + 1 - first_number) / max(1, rows)

    def _count_files(self) -> None:
        # What can't be listed is reported by whoever reads it.
        with contextlib.suppress(MllamaError):
            self._total_files = sum(1 for _ in self._all_known())

    @property
    def fraction(self) -> float | None:
        """Returns the part of the input that has been read, if that is known."""
        if self._is_over:
            return 1.0
        if not self._total_files:
            return None
        return min(1.0, (self._files_read + self._position()) / self._total_files)


def _kind(file: InputFile) -> Kind | None:
    """Returns the kind of a file; None if it is of no known kind."""
    if file.path == STDIN:
        return "lines"
    suffix = file.suffix
    packing = next((each for each in _PACKED if suffix.endswith(each)), "")
    kind = _KINDS.get(suffix.removesuffix(packing))
    # A packed picture or Parquet file is neither.
    return None if packing and kind in ("picture", "parquet") else kind


def _position(file: BinaryIO, size: int | None) -> Callable[[], float]:
    """Returns what tells which part of a file has been read."""

    def position() -> float:
        try:
            return file.tell() / size if size else 0.0
        except (OSError, ValueError):
            return 0.0

    return position
