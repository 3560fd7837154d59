"""What all chunks of an answer begin with, and the usage at its end."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from mllama.requests.events import Event, Finished, Piece, PromptRead
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


class UsageCounter:
    """Counts the tokens of a request from its events."""

    def __init__(self) -> None:
        self._prompt = self._image = self._cached = 0
        self._completion: dict[tuple[int, int], int] = {}

    def add(self, event: Event, prompt: int = 0) -> None:
        """Counts an event.

        Args:
            event: The event.
            prompt: Which of the request's prompts it is about.
        """
        if isinstance(event, Piece):
            key = (prompt, event.choice)
            count = self._completion.get(key, 0)
            self._completion[key] = count + len(event.token_ids)
        elif isinstance(event, Finished):
            self._completion[prompt, event.choice] = event.completion_tokens
        elif isinstance(event, PromptRead):
            self._prompt += event.prompt_tokens
            self._image += event.image_tokens
            self._cached += event.cached_tokens

    @property
    def completion_tokens(self) -> int:
        """Returns the number of tokens of all answers so far."""
        return sum(self._completion.values())

    @property
    def prompt_tokens(self) -> int:
        """Returns the number of tokens of all prompts that have been read."""
        return self._prompt

    def usage(self) -> dict[str, Any]:
        """Returns the usage so far."""
        completion = self.completion_tokens
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": completion,
            "total_tokens": self._prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": self._cached,
                "image_tokens": self._image,
            },
        }


def compact(value: Any) -> str:
    """Returns JSON without spaces, in characters rather than escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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
            end = f'],"usage":{compact(self._usage.usage())}}}\n\n'
        return f"{self._start}{choice}{end}".encode()

    def end(self) -> bytes:
        """Returns the events after the last chunk."""
        done = b"data: [DONE]\n\n"
        if self._usage is None:
            return done
        usage = compact(self._usage.usage())
        return f'{self._start}],"usage":{usage}}}\n\n'.encode() + done
