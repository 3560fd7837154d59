"""What answers a chat."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from mllama.cli.chat_session.settings import AnswerSettings


@dataclass(frozen=True)
class AnswerEnd:
    """How an answer ended, and its figures as far as they are known.

    Attributes:
        finish_reason: "stop", "length", or another word of the server.
        seconds_to_first_token: Seconds from the question to the answer's first token.
        tokens_per_second: Rate of the tokens after the first.
        completion_tokens: Tokens of the answer.
        prompt_tokens: Tokens of the prompt, with those of its pictures.
        image_tokens: Those of its pictures.
        cached_tokens: Tokens of the prompt that the prefix cache had.
        cached_images: Pictures that the image cache had.
    """

    finish_reason: str
    seconds_to_first_token: float | None = None
    tokens_per_second: float | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    cached_tokens: int | None = None
    cached_images: int | None = None

    def figures(self) -> str:
        """Returns a line with the known figures."""
        counts = {
            "{} tokens": self.completion_tokens,
            "{:.1f} tokens/s": self.tokens_per_second,
            "first token after {:.2f} s": self.seconds_to_first_token,
            "prompt {} tokens": self.prompt_tokens,
            "{} of images": self.image_tokens,
            "prefix cache hits {} tokens": self.cached_tokens,
            "image cache hits {}": self.cached_images,
        }
        return ", ".join(
            form.format(value) for form, value in counts.items() if value is not None
        )


class Backend(Protocol):
    """A model that answers conversations."""

    @property
    def name(self) -> str:
        """Returns a description of the model."""
        ...

    def answer(
        self, messages: list[dict[str, Any]], settings: AnswerSettings
    ) -> Generator[str | AnswerEnd, None, None]:
        """Yields the pieces of an answer, and its end last.

        Closing the generator stops the answer.

        Raises:
            MllamaError: If the question can't be answered.
            EngineError: If the engine failed.
        """
        ...
