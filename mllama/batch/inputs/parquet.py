"""Rows of Parquet files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, BinaryIO, Final

from mllama.batch.inputs.question import Picture, Question, wrong
from mllama.batch.lines import BatchLine, LineError
from mllama.errors import MllamaError, listed

_ROWS: Final = 16
"""Rows that are decoded at a time: each may have a photo of megabytes."""


def load_pyarrow() -> None:
    """Loads pyarrow, if it is installed, before a model runs in this process.

    If MAX 26.7 has run a graph before pyarrow 26 is loaded, pyarrow crashes the process
    when it reads; loaded in the other order they work side by side.
    """
    with contextlib.suppress(ImportError):
        import pyarrow.parquet  # noqa: F401


def import_parquet(why: str) -> ModuleType:
    """Returns ``pyarrow.parquet``.

    Args:
        why: What needs it.

    Raises:
        MllamaError: If it isn't installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MllamaError(f"{why} needs pyarrow: pip install 'mllama[batch]'") from None
    return parquet


def read_rows(
    file: BinaryIO,
    name: str,
    question: Question,
    *,
    image_column: str | None,
    prompt_column: str | None,
    id_column: str | None,
    first_number: int,
    on_count: Callable[[int], None],
) -> Iterator[BatchLine]:
    """Yields a question about each row's picture.

    A picture is a column of bytes, of URLs, of the objects with ``bytes`` and ``path``
    that Hugging Face's data sets have, or of lists of these.

    Args:
        file: The file.
        name: What its rows are called by.
        question: The question.
        image_column: The column with the pictures; None if there are none.
        prompt_column: The column with the questions, if ``question`` has none.
        id_column: The column with the rows' ids; None makes some.
        first_number: The number of the first line.
        on_count: Gets the number of rows before the first one.

    Raises:
        MllamaError: If there is no such column, or no pyarrow.
        OSError: If the file is damaged.
    """
    parquet = import_parquet(name)
    import pyarrow

    named = (image_column, prompt_column, id_column)
    columns = [column for column in named if column is not None]
    try:
        source = parquet.ParquetFile(file)
        missing = [each for each in columns if each not in source.schema_arrow.names]
        if missing:
            raise MllamaError(
                f"{name} has no column {missing[0]!r}; it has "
                f"{listed(source.schema_arrow.names)}"
            )
        on_count(source.metadata.num_rows)
        row = 0
        for batch in source.iter_batches(batch_size=_ROWS, columns=columns):
            for record in batch.to_pylist():
                number = first_number + row
                identity = f"{name}:{row}" if id_column is None else record[id_column]
                row += 1
                if identity is None:
                    yield line_without_id(number, str(id_column))
                    continue
                yield record_line(
                    number,
                    str(identity),
                    question,
                    None if image_column is None else record[image_column],
                    image_column,
                    record.get(prompt_column) if prompt_column else None,
                )
    except pyarrow.ArrowException as error:
        raise OSError(" ".join(str(error).split())) from error


def line_without_id(number: int, column: str) -> BatchLine:
    """Returns the line of a record whose column of ids is empty.

    Args:
        number: The line's number, from 1.
        column: The name of the column.
    """
    error = LineError("no_id", f"The column {column!r} is empty.")
    return BatchLine(number=number, custom_id=None, error=error)


def record_line(
    number: int,
    custom_id: str | None,
    question: Question,
    value: Any,
    column: str | None,
    prompt: Any,
) -> BatchLine:
    """Returns the question about a record as a line of a batch.

    Args:
        number: The line's number, from 1.
        custom_id: Its name; None if it has none.
        question: The question.
        value: The cell with the record's pictures.
        column: The name of its column; None if the record has no pictures.
        prompt: The record's own question, or None.
    """
    if prompt is not None and not isinstance(prompt, str):
        return wrong(number, custom_id, "invalid_type", "The question is no text.")
    try:
        pictures = [] if column is None else _pictures(value)
    except TypeError:
        return wrong(
            number,
            custom_id,
            "invalid_image",
            f"The column {column!r} has no picture: bytes, a URL, an object with "
            "`bytes`, or a list of them.",
        )
    return question.line(number, custom_id, pictures, prompt)


def _pictures(value: Any) -> Sequence[Picture]:
    """Returns the pictures in a cell.

    Raises:
        TypeError: If it has none.
    """
    if isinstance(value, list):
        return [picture for each in value for picture in _pictures(each)]
    if isinstance(value, dict):
        content = value.get("bytes")
        value = value.get("path") if content is None else content
    if isinstance(value, (bytes, str)) and value:
        return [value]
    raise TypeError
