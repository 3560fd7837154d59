"""Where the server keeps batches, and how much of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mllama.errors import MllamaError

DEFAULT_MAX_FILE_BYTES: Final = 200 * 2**20
DEFAULT_MAX_LINES: Final = 50_000
"""The limits of OpenAI's API."""

DEFAULT_MAX_FILES: Final = 1000
DEFAULT_MAX_DISK_BYTES: Final = 10 * 2**30

MAX_OPEN_BATCHES: Final = 100
"""Batches of all clients that haven't ended, at most."""

FILES_OF_BATCH: Final = 2
"""Files that a batch makes, at most: its answers, and its errors."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Where the server keeps batches, and how much of them.

    Attributes:
        directory: The folder of files and batches.
        max_file_bytes: The largest file of a client.
        max_lines: The most lines of a batch.
        max_files: The most files, those of answers included.
        max_disk_bytes: The most bytes of all files.

    Raises:
        MllamaError: If a value is wrong, or a package is missing.
    """

    directory: Path
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES
    max_lines: int = DEFAULT_MAX_LINES
    max_files: int = DEFAULT_MAX_FILES
    max_disk_bytes: int = DEFAULT_MAX_DISK_BYTES

    def __post_init__(self) -> None:
        if self.directory.exists() and not self.directory.is_dir():
            raise MllamaError(f"--batch-dir {self.directory} is not a folder")
        if self.max_disk_bytes < self.max_file_bytes:
            raise MllamaError(
                "--batch-max-disk must not be less than --batch-max-file-size"
            )
        if self.max_files <= FILES_OF_BATCH:
            raise MllamaError(
                f"--batch-max-files must be at least {FILES_OF_BATCH + 1}, for the "
                "lines, the answers and the errors of a batch"
            )
        if importlib.util.find_spec("python_multipart") is None:
            raise MllamaError(
                "--batch-dir needs python-multipart: pip install 'mllama[batch]'"
            )
