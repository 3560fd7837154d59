"""The output that a user names: a file, or a folder with shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from mllama.batch.inputs.parquet import import_parquet
from mllama.batch.output import DEFAULT_SHARD_LINES, JsonLines, ShardFolder, locked
from mllama.batch.parquet_output import parquet_identities, write_parquet
from mllama.batch.retries import remove_errors
from mllama.batch.run import ResultWriter
from mllama.batch.seen_ids import SeenIds
from mllama.errors import MllamaError

OutputFormat = Literal["jsonl", "parquet"]

_FILES: Final = (".jsonl", ".ndjson")
_OTHERS: Final = (".json", ".csv", ".tsv", ".txt", ".parquet", ".gz", ".zst", ".tar")


class Destination:
    """Where the answers go.

    Attributes:
        path: The file or the folder.

    Args:
        name: What the user named: a file ``*.jsonl``, or a folder.
        output_format: The format of its files; None is JSONL.
        shard_lines: Answers in each file of a folder; None is a default.

    Raises:
        MllamaError: If it can't be an output, or pyarrow is missing.
    """

    def __init__(
        self,
        name: str,
        output_format: OutputFormat | None = None,
        shard_lines: int | None = None,
    ) -> None:
        self.path = Path(name)
        self._is_file = self.path.suffix.lower() in _FILES or self.path.is_file()
        self._has_parquet = output_format == "parquet"
        self._shard_lines = shard_lines or DEFAULT_SHARD_LINES
        if "://" in name or name == "-":
            raise MllamaError(
                f"the output {name} must be a file or a folder of this machine, which "
                "a later run can continue"
            )
        if self.path.exists() and not (self.path.is_dir() or self.path.is_file()):
            raise MllamaError(f"the output {name} is neither a file nor a folder")
        if self._is_file and self.path.is_dir():
            raise MllamaError(f"the output {name} is a folder; name another one")
        if not self._is_file and self.path.suffix.lower() in _OTHERS:
            raise MllamaError(
                f"the output {name} must be a file *.jsonl, or a folder for the files "
                "of --output-format"
            )
        if self._is_file and self._has_parquet:
            raise MllamaError(
                "--output-format parquet needs a folder as the output, for files that "
                "are complete each"
            )
        if self._is_file and shard_lines is not None:
            raise MllamaError("--shard-lines needs a folder as the output")
        if self._has_parquet:
            import_parquet("--output-format parquet")

    @contextmanager
    def opened(
        self, seen: SeenIds, *, retry_errors: bool = False
    ) -> Iterator[ResultWriter]:
        """Yields what writes the answers, and closes it.

        Args:
            seen: Gets what earlier runs have answered.
            retry_errors: Whether to remove the errors of earlier runs first, so that
                their lines are asked again.

        Raises:
            MllamaError: If another run writes there, or it has other things than
                answers.
        """
        with locked(self.path, is_folder=not self._is_file):
            if retry_errors:
                remove_errors(self.path)
            if self._is_file:
                file = JsonLines(self.path)
                try:
                    _add(file, seen)
                    yield file
                finally:
                    file.close()
                return
            folder = ShardFolder(
                self.path,
                self._shard_lines,
                write_parquet if self._has_parquet else None,
                parquet_identities if self._has_parquet else None,
            )
            try:
                _add(folder, seen)
                yield folder
            except BaseException:
                folder.close(is_complete=False)
                raise
            folder.close(is_complete=True)


def _add(output: JsonLines | ShardFolder, seen: SeenIds) -> None:
    for identity in output.identities():
        seen.add_answer(identity)
