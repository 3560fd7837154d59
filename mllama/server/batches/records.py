"""Files and batches as they are kept on the disk, and as clients see them."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

BatchStatus = Literal[
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
]

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
"""States of batches that don't change any more."""

KEPT_SECONDS: Final = 30 * 24 * 3600
"""How long files, and batches that have ended, are kept."""

WINDOW_SECONDS: Final = 24 * 3600
"""How long a batch may take."""


_ID: Final = re.compile(r"(file-|batch_)[0-9a-f]{32}")


def now() -> int:
    """Returns the time in seconds since 1970."""
    return int(time.time())


def new_id(kind: str) -> str:
    """Returns an id that nobody can guess, such as ``file-...``."""
    return f"{kind}{uuid.uuid4().hex}"


def is_id(text: str) -> bool:
    """Returns True if a text is what :func:`new_id` returns.

    Files that begin with one are the server's own, and others of its folder the user's.
    """
    return _ID.fullmatch(text) is not None


class Record(BaseModel):
    """What is kept about a client's object.

    Attributes:
        id: Its id.
        owner: Whose it is; see :func:`~mllama.server.batches.owners.owner_of`.
        created_at: When it was made, in seconds since 1970.
        number: Its place among all of its kind, by which lists are sorted.
    """

    model_config = ConfigDict(extra="ignore")

    id: str
    owner: str
    created_at: int = Field(default_factory=now)
    number: int = 0


class FileRecord(Record):
    """A file."""

    bytes: int
    filename: str
    purpose: str
    expires_at: int

    def visible(self) -> dict[str, Any]:
        """Returns OpenAI's object of a file."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class BatchProblem(BaseModel):
    """Why a batch failed as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class RequestCounts(BaseModel):
    """How many requests a batch has, and how many have an answer or an error."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchRecord(Record):
    """A batch.

    Attributes:
        ends_as: The state that it will have once its answers are files.
    """

    endpoint: str
    input_file_id: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_seconds: int = KEPT_SECONDS
    status: BatchStatus = "validating"
    ends_as: BatchStatus = "completed"
    errors: list[BatchProblem] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    expires_at: int = 0
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = Field(default_factory=RequestCounts)

    @property
    def is_over(self) -> bool:
        """Returns True if it doesn't change any more."""
        return self.status in ENDED

    def enter(self, status: BatchStatus) -> None:
        """Notes that it has another state now."""
        self.status = status
        if status != "validating":
            setattr(self, f"{status}_at", now())

    def visible(self) -> dict[str, Any]:
        """Returns OpenAI's object of a batch."""
        content = self.model_dump(
            exclude={"owner", "number", "output_seconds", "ends_as", "errors"}
        )
        if not self.is_over:
            # Their files exist when it ends.
            content["output_file_id"] = content["error_file_id"] = None
        errors = [each.model_dump() for each in self.errors]
        return content | {
            "object": "batch",
            "errors": {"object": "list", "data": errors} if errors else None,
        }
