"""What all chunks of an answer begin and end with."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from mllama.server.compact_json import compact
from mllama.server.usage import UsageCounter
from mllama.version import __version__

FINGERPRINT = f"mllama-{__version__}"
"""The ``system_fingerprint`` of answers."""


@dataclass(frozen=True)
class AnswerHead:
    """Fields that are the same in all chunks of an answer.

    Attributes:
        prefix: The beginning of ``id``.
        model: The served model's name.
        id: The answer's own name.
        created: When it began, in seconds since 1970.
    """

    prefix: str
    model: str
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self, kind: str) -> dict[str, Any]:
        """Returns the fields of an object of a kind."""
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }


def usage_object(usage: UsageCounter) -> dict[str, Any]:
    """Returns the usage so far, as answers have it."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "image_tokens": usage.image_tokens,
        },
    }


class ChunkWriter:
    """Writes chunks as server-sent events.

    Args:
        head: The answer's head.
        kind: The chunks' ``object``.
        usage: Counts the tokens; None if the request asks for no usage.
        is_continuous: Whether each chunk has the usage so far.
    """

    def __init__(
        self,
        head: AnswerHead,
        kind: str,
        usage: UsageCounter | None,
        is_continuous: bool = False,
    ) -> None:
        fields = compact(head.fields(kind))
        self._start = f'data: {fields[:-1]},"choices":['
        self._usage = usage
        self._is_continuous = is_continuous
        self._end = "]}\n\n" if usage is None else '],"usage":null}\n\n'

    def chunk(self, choice: str) -> bytes:
        """Returns the event of a chunk.

        Args:
            choice: The JSON of its only choice.
        """
        end = self._end
        if self._is_continuous and self._usage is not None:
            end = f'],"usage":{compact(usage_object(self._usage))}}}\n\n'
        return f"{self._start}{choice}{end}".encode()

    def end(self) -> bytes:
        """Returns the events after the last chunk."""
        done = b"data: [DONE]\n\n"
        if self._usage is None:
            return done
        usage = compact(usage_object(self._usage))
        return f'{self._start}],"usage":{usage}}}\n\n'.encode() + done
