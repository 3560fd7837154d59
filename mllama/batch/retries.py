"""Removes the errors of earlier runs from an output, so that they are asked again."""

from __future__ import annotations

from pathlib import Path

from mllama.batch.output import JsonLines, no_answer, shards_of, unwritable
from mllama.batch.parquet_output import remove_parquet_errors
from mllama.batch.results import is_error_line
from mllama.errors import MllamaError
from mllama.utils.atomic_file import atomic_file


def remove_errors(output: Path) -> None:
    """Removes the errors from a file or a folder of answers, if there is one.

    Each file is replaced when its copy without errors is complete, so that a kill
    loses no answer.

    Args:
        output: The output, which no other run writes.

    Raises:
        MllamaError: If it has other things than answers, or can't be written.
    """
    if output.is_file():
        _remove_lines(output)
    elif output.is_dir():
        for path in shards_of(output):
            if path.suffix == ".parquet":
                remove_parquet_errors(path)
            else:
                _remove_lines(path)


def _remove_lines(path: Path) -> None:
    # It cuts a torn last line off.
    JsonLines(path).close()
    try:
        if not _has_errors(path):
            return
        with (
            path.open("rb") as source,
            atomic_file(path) as part,
            part.open("wb") as copy,
        ):
            for line in source:
                if not is_error_line(line):
                    copy.write(line)
    except OSError as error:
        raise unwritable(path, error) from error


def _has_errors(path: Path) -> bool:
    """Returns True if a file has errors.

    Raises:
        MllamaError: If a line is none of an answer.
    """
    found = False
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found |= is_error_line(line)
            except MllamaError:
                raise no_answer(path, number) from None
    return found
