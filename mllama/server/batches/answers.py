"""OpenAI's objects of files and batches, as models for the API's schema."""

from __future__ import annotations

from typing import Any, Literal

from mllama.server.batches.records import BatchStatus, RequestCounts
from mllama.server.dialects.openai.answers import Answer


class FileObject(Answer):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(Answer):
    """Files, the newest first unless they are asked for in another order."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Answer):
    """A file that has been deleted."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchError(Answer):
    """Why a batch failed."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(Answer):
    """Why a batch failed as a whole."""

    object: Literal["list"]
    data: list[BatchError]


class Batch(Answer):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, Any] | None


class BatchList(Answer):
    """Batches, the newest first."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
