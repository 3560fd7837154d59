"""Rows of a dataset of Ray as lines of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from mllama.batch.inputs.parquet import line_without_id, record_line
from mllama.batch.inputs.question import Question, wrong
from mllama.batch.lines import BatchLine
from mllama.errors import MllamaError, listed

if TYPE_CHECKING:
    from ray.data import Dataset


class LineOfRow:
    """Makes lines of rows, in any process.

    Args:
        question: What is asked about each picture.
        image_column: The column with the pictures; None if there are none.
        prompt_column: The column with the questions, if ``question`` has none.
        id_column: The column with the rows' ids; None is none.
    """

    def __init__(
        self,
        question: Question,
        image_column: str | None,
        prompt_column: str | None,
        id_column: str | None,
    ) -> None:
        self._question = question
        self._image_column = image_column
        self._prompt_column = prompt_column
        self._id_column = id_column

    def __call__(self, row: Mapping[str, Any], number: int) -> BatchLine:
        """Returns the line of a row.

        Args:
            row: The row.
            number: A number of its own among those that this process asks about.
        """
        identity = None if self._id_column is None else row[self._id_column]
        value = None if self._image_column is None else row[self._image_column]
        prompt = None if self._prompt_column is None else row[self._prompt_column]
        if self._id_column is not None and identity is None:
            return line_without_id(number, self._id_column)
        custom_id = None if identity is None else str(identity)
        try:
            value = _as_file(value)
        except (ValueError, TypeError, OSError) as error:
            message = f"The pixels are no picture: {error}."
            return wrong(number, custom_id, "invalid_image", message)
        return record_line(
            number,
            custom_id,
            self._question,
            value,
            self._image_column,
            prompt,
        )


class DatasetRows:
    """The rows of a dataset as lines, checked.

    Raises:
        MllamaError: If a column is missing, or the question can't be asked.
    """

    def __init__(
        self,
        dataset: Dataset,
        prompt: str | None,
        image_column: str | None,
        prompt_column: str | None,
        id_column: str | None,
        system: str | None,
        fields: Mapping[str, Any] | None,
    ) -> None:
        from mllama.server.batches.questions import check_question

        if (prompt is None) == (prompt_column is None):
            raise MllamaError("a dataset needs either prompt or prompt_column")
        question = Question(prompt, system, dict(fields or {}))
        check_question(question)
        self.columns = list(dataset.columns() or ())
        for name in (image_column, prompt_column, id_column):
            if name is not None and name not in self.columns:
                raise MllamaError(
                    f"the dataset has no column {name!r}; it has {listed(self.columns)}"
                )
        self._dataset = dataset
        self.line = LineOfRow(question, image_column, prompt_column, id_column)

    def lines(self) -> Iterator[BatchLine]:
        """Yields the rows as lines, while Ray reads the next ones.

        Rows without an id have numbers of their own, from 1: Ray's order may differ
        from run to run, so that a later run knows only how many there are.
        """
        without_id = 0
        for number, row in enumerate(self._dataset.iter_rows(), 1):
            line = self.line(row, number)
            if line.custom_id is None:
                without_id += 1
                line = replace(line, number=without_id)
            yield line


def _as_file(value: Any) -> Any:
    """Returns pixels as a file; other values as they are.

    Raises:
        ValueError: If pixels have no form that a picture has.
        TypeError: If they have a type that no picture has.
        OSError: If they have one that no PNG file has, such as floats.
    """
    import numpy as np

    if not isinstance(value, np.ndarray) or value.ndim < 2:
        return value
    if not value.size:
        raise ValueError("there are none")
    from PIL import Image

    file = BytesIO()
    Image.fromarray(value.squeeze(-1) if value.shape[-1:] == (1,) else value).save(
        file, "PNG", compress_level=1
    )
    return file.getvalue()
