"""Answers as Parquet: a row each, with what is usually looked for in columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pydantic_core import from_json

from mllama.batch.inputs.parquet import import_parquet
from mllama.batch.results import answered_identity
from mllama.errors import MllamaError
from mllama.utils.atomic_file import atomic_file

_ROWS: Final = 1000
"""Rows of a group: they are in memory together."""

_COLUMNS: Final = (
    ("custom_id", "string"),
    ("status_code", "int32"),
    ("text", "string"),
    ("finish_reason", "string"),
    ("prompt_tokens", "int64"),
    ("completion_tokens", "int64"),
    ("response", "string"),
    ("error", "string"),
)
"""Columns and their types; ``response`` and ``error`` are the JSON of the line."""

COLUMNS: Final = tuple(name for name, _ in _COLUMNS)
"""Columns of answers."""


def write_parquet(lines: Path) -> None:
    """Writes a file of answers as Parquet next to it, and removes it.

    Args:
        lines: The file, in JSONL.

    Raises:
        MllamaError: If it can't be written, or pyarrow isn't installed.
    """
    parquet = import_parquet("a Parquet output")
    schema = _schema()
    target = lines.with_suffix(".parquet")
    try:
        with (
            lines.open("rb") as source,
            atomic_file(target) as part,
            parquet.ParquetWriter(part, schema, compression="zstd") as writer,
        ):
            while rows := list(islice(source, _ROWS)):
                writer.write_table(answers_table(rows))
        lines.unlink()
    except OSError as error:
        raise MllamaError(
            f"{target} can't be written: {error.strerror or error}"
        ) from error


def answers_table(lines: Iterable[bytes]) -> Any:
    """Returns lines of answers as a table of pyarrow, with a row for each."""
    import pyarrow

    return pyarrow.Table.from_pylist([_row(line) for line in lines], _schema())


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in _COLUMNS])


def parquet_identities(path: Path) -> Iterator[str]:
    """Yields what the answers in a Parquet file are known by.

    Raises:
        MllamaError: If it has none, or pyarrow isn't installed.
    """
    parquet = import_parquet("a Parquet output")
    import pyarrow

    try:
        with parquet.ParquetFile(path) as source:
            _check_columns(source, path)
            columns = ["custom_id", "status_code", "error"]
            for batch in source.iter_batches(batch_size=_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield _identity(row)
    except (pyarrow.ArrowException, MllamaError, OSError) as error:
        raise _no_answers(path) from error


def _identity(row: dict[str, Any]) -> str:
    """Returns what the row of an answer is known by.

    Raises:
        MllamaError: If it is no such row.
    """
    # The error of a row with a status is in its response.
    error = row["error"] if row["status_code"] is None else None
    line = b'{"custom_id":%s,"response":null,"error":%s}' % (
        json.dumps(row["custom_id"]).encode(),
        (error or "null").encode(),
    )
    return answered_identity(line)


def _check_columns(source: Any, path: Path) -> None:
    """Checks that a Parquet file has the columns of answers.

    Args:
        source: The open file.
        path: The file, for the message.

    Raises:
        MllamaError: If it hasn't.
    """
    found = {column.name: column.type for column in source.schema_arrow}
    if any(found.get(column.name) != column.type for column in _schema()):
        raise _no_answers(path)


def _no_answers(path: Path) -> MllamaError:
    """Returns the error of a Parquet file of something else."""
    return MllamaError(f"{path} has no answers of a batch; name another output")


def remove_parquet_errors(path: Path) -> None:
    """Removes the rows with errors from a Parquet file of answers.

    Raises:
        MllamaError: If it has none, can't be written, or pyarrow isn't installed.
    """
    parquet = import_parquet("a Parquet output")
    import pyarrow
    import pyarrow.compute as compute

    try:
        with parquet.ParquetFile(path) as source:
            _check_columns(source, path)
            if not _has_errors(source.iter_batches(columns=["error"])):
                return
            with (
                atomic_file(path) as part,
                parquet.ParquetWriter(
                    part, source.schema_arrow, compression="zstd"
                ) as writer,
            ):
                for batch in source.iter_batches(batch_size=_ROWS):
                    kept = batch.filter(compute.is_null(batch.column("error")))
                    writer.write_batch(kept)
    except pyarrow.ArrowException as error:
        raise _no_answers(path) from error
    except OSError as error:
        raise MllamaError(
            f"{path} can't be written: {error.strerror or error}"
        ) from error


def _has_errors(batches: Iterable[Any]) -> bool:
    return any(batch.column("error").null_count < batch.num_rows for batch in batches)


def _row(line: bytes) -> dict[str, Any]:
    """Returns the row of an answer."""
    result = from_json(line)
    response, error = result["response"], result["error"]
    body: dict[str, Any] = {} if response is None else response["body"]
    usage = body.get("usage") or {}
    if response is not None and "error" in body and body["error"]:
        error = body["error"]
    return {
        "custom_id": result["custom_id"],
        "status_code": None if response is None else response["status_code"],
        "text": _text(body),
        "finish_reason": _first(body.get("choices")).get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "completion_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
        "response": None if response is None else json.dumps(body, ensure_ascii=False),
        "error": None if error is None else json.dumps(error, ensure_ascii=False),
    }


def _text(body: dict[str, Any]) -> str | None:
    """Returns the text of the first answer of a chat, completion or response."""
    choice = _first(body.get("choices"))
    if "message" in choice:
        text: str | None = choice["message"].get("content")
        return text
    if "text" in choice:
        return str(choice["text"])
    parts = [
        part["text"]
        for item in body.get("output") or ()
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    ]
    return "".join(parts) if parts else None


def _first(choices: Any) -> dict[str, Any]:
    return choices[0] if choices else {}
