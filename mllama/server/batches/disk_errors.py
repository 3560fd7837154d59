"""Errors of the disk that files and batches are on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException


@contextmanager
def disk_errors(name: str) -> Iterator[None]:
    """Makes an error of the disk the answer to the request.

    Args:
        name: What can't be kept.

    Raises:
        HTTPException: If the disk is full or read-only, or fails.
    """
    try:
        yield
    except OSError as error:
        raise HTTPException(
            507, f"The {name} can't be kept: {error.strerror or error}."
        ) from error
