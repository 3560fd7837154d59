"""The line of the log that each request has."""

from __future__ import annotations

import logging
from typing import Any, Final

from mllama.server.observability.request_record import Outcome, RequestRecord

logger = logging.getLogger("mllama.access")

FIELDS: Final = "request_fields"
"""The attribute of a log record that has a request's fields, for structured logs."""


def request_fields(
    record: RequestRecord, route: str | None, outcome: Outcome
) -> dict[str, Any]:
    """Returns what the log says about a request: nothing of its content.

    Args:
        record: The request, which has ended.
        route: The template of its path; None if there is no such route.
        outcome: How it ended.
    """
    fields: dict[str, Any] = {
        "method": record.method,
        "route": route,
        "status": record.status or None,
        "outcome": outcome.value,
        "error": record.error_code,
        "duration_seconds": round(record.seconds(), 4),
        "client": record.client or None,
    }
    if record.answers:
        fields |= {
            "queue_seconds": round(record.queue_seconds, 4),
            "first_token_seconds": None
            if record.first_token_seconds is None
            else round(record.first_token_seconds, 4),
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "generated_tokens": record.generated_tokens,
            "images": record.images,
        }
    return {name: value for name, value in fields.items() if value is not None}


_IN_WORDS: Final = ("method", "route", "status", "outcome")


def log_request(record: RequestRecord, route: str | None, outcome: Outcome) -> None:
    """Logs that a request has ended."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = request_fields(record, route, outcome)
    others = " ".join(f"{k}={v}" for k, v in fields.items() if k not in _IN_WORDS)
    logger.info(
        "%s %s %s %s %s",
        record.method,
        route or "-",
        record.status or "-",
        outcome.value,
        others,
        extra={FIELDS: fields},
    )
