"""Errors for users, whose one-line messages name the problem and its solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MllamaError(ValueError):
    """Bad input.

    The command line prints the message and exits with code 2; the server answers 400.
    """


class ConfigError(MllamaError):
    """A checkpoint's configuration is missing, contradictory or can't be served."""


class CheckpointError(MllamaError):
    """A checkpoint's files are missing, damaged or of another model."""


class CompiledModelError(MllamaError):
    """A compiled model is damaged, or was compiled for other options."""


class ImageError(MllamaError):
    """An image can't be read or used."""


class ImageDecodeError(ImageError):
    """An image's pixels are damaged or incomplete."""


class NumberedImageError(ImageError):
    """An image of a request can't be used.

    Args:
        message: One line for the user.
        number: Which one, from 1.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class RequestError(MllamaError):
    """A request for an answer has a value that is wrong or isn't supported.

    Args:
        message: One line for the user.
        param: The wrong field, by the name that it has in ``Sampling`` or
            ``GenerationRequest``; None if there is no single one.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLongError(RequestError):
    """A prompt leaves no room for an answer in the model's context."""


class EngineError(RuntimeError):
    """The engine can't answer a valid request: the model failed, or its process died.

    The server answers 500.
    """


class TemporaryEngineError(EngineError):
    """The engine can't answer a request now, but may later.

    Args:
        message: One line for the user.
        retry_after: Seconds after which another try is worthwhile.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineOverloadedError(TemporaryEngineError):
    """Too many requests wait for the engine.  The server answers 429."""


class EngineUnavailableError(TemporaryEngineError):
    """There is no engine at the moment: it is being started again, or shut down.

    The server answers 503.
    """

    def renewed(self) -> EngineUnavailableError:
        """Returns an equal error, whose traceback is that of another request."""
        return EngineUnavailableError(str(self), self.retry_after)


class HubError(MllamaError):
    """A repository of the Hugging Face hub can't be read, or has no such model."""


def listed(names: Sequence[str], most: int = 20) -> str:
    """Returns names for a message: the first ``most``, then how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def quoted(value: Any) -> str:
    """Returns a value from outside for a message, on one line and cut to about 80
    characters."""
    text = repr(value[:80] if isinstance(value, (str, list)) else value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def shortened(text: str, limit: int = 120) -> str:
    """Returns a name from outside for a message: printable, and cut to ``limit``."""
    printable = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return printable if len(printable) <= limit else f"{printable[:limit]}..."
