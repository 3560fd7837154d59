"""The question that is asked about each picture of an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mllama.batch.lines import BatchLine, LineError, encode_body, picture_key

CHAT_PATH: Final = "/v1/chat/completions"

Picture = str | bytes
"""A picture's URL, or its content."""

_ATTACHED: Final = "attached:"
"""The scheme of the URLs of pictures that a line has with it."""


@dataclass(frozen=True)
class Question:
    """A question about each picture.

    Attributes:
        prompt: The question; None if each picture has its own.
        system: A system prompt.
        fields: Further fields of the requests, such as ``max_tokens``.
    """

    prompt: str | None
    system: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def body(self, urls: Sequence[str], prompt: str | None = None) -> dict[str, Any]:
        """Returns the body of a request.

        Args:
            urls: The pictures' URLs.
            prompt: The question, if this one has none.
        """
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url}} for url in urls
        ]
        text = prompt if self.prompt is None else self.prompt
        content.append({"type": "text", "text": text})
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "messages": [*system, {"role": "user", "content": content}],
            **self.fields,
        }

    def line(
        self,
        number: int,
        custom_id: str | None,
        pictures: Sequence[Picture],
        prompt: str | None = None,
    ) -> BatchLine:
        """Returns the question about pictures as a line of a batch.

        Args:
            number: The line's number, from 1.
            custom_id: Its name; None if it has none.
            pictures: The pictures.
            prompt: The question, if this one has none.
        """
        if self.prompt is None and not prompt:
            return wrong(number, custom_id, "no_prompt", "The record has no question.")
        attachments = {
            f"{_ATTACHED}{number}-{place}": picture
            for place, picture in enumerate(pictures)
            if isinstance(picture, bytes)
        }
        urls = [
            picture if isinstance(picture, str) else f"{_ATTACHED}{number}-{place}"
            for place, picture in enumerate(pictures)
        ]
        return BatchLine(
            number=number,
            custom_id=custom_id,
            url=CHAT_PATH,
            body=encode_body(self.body(urls, prompt)),
            picture=picture_key(pictures[0]) if pictures else None,
            attachments=attachments,
        )


def wrong(number: int, custom_id: str | None, code: str, message: str) -> BatchLine:
    """Returns a line that can't be asked."""
    return BatchLine(number=number, custom_id=custom_id, error=LineError(code, message))
