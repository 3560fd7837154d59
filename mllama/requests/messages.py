"""Validation of a user's messages, and loading of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from mllama.errors import ImageError, MllamaError
from mllama.images.load import ImageFile, is_image_source, open_image, url_scheme
from mllama.images.preparation import check_image, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

Message = Mapping[str, Any]
"""An OpenAI-style message: ``role``, and ``content`` as a string or list of parts."""

Prepared = TypeVar("Prepared")
"""What an image of a conversation becomes."""

ROLES = ("system", "developer", "user", "assistant", "tool")

_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "assistant": frozenset({"tool_calls", "refusal", "annotations"}),
    "tool": frozenset({"tool_call_id"}),
}
"""Keys of messages by role, beside ``role``, ``content`` and ``name``."""


@dataclass(frozen=True)
class Conversation(Generic[Prepared]):
    """Messages with placeholders for images, and the images in order."""

    messages: list[dict[str, Any]]
    images: list[Prepared]


@dataclass
class _ImagesInOrder(Generic[Prepared]):
    """The images of a conversation, which are prepared while its parts are read."""

    prepare: Callable[[ImageFile], Future[Prepared]]
    futures: list[Future[Prepared]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    message: str = ""

    def add(self, source: Any) -> None:
        number = len(self.futures) + 1
        try:
            file = open_image(source)
        except ImageError as error:
            raise ImageError(f"image {number}: {error}") from error
        self.futures.append(self.prepare(file))
        self.places.append(f"{self.message}image {number}")

    def results(self) -> list[Prepared]:
        """Returns the prepared images, or raises the error of the first that fails."""
        prepared = []
        for future, place in zip(self.futures, self.places, strict=True):
            try:
                prepared.append(future.result())
            except ImageError as error:
                raise ImageError(f"{place}: {error}") from error
        return prepared

    def cancel(self) -> None:
        """Cancels what has not begun."""
        for future in self.futures:
            future.cancel()


@overload
def read_conversation(
    messages: Sequence[Message], directory: Path | None = ...
) -> Conversation[Image]: ...


@overload
def read_conversation(
    messages: Sequence[Message],
    directory: Path | None = ...,
    *,
    prepare: Callable[[ImageFile], Future[Prepared]],
) -> Conversation[Prepared]: ...


def read_conversation(
    messages: Sequence[Message],
    directory: Path | None = None,
    *,
    prepare: Callable[[ImageFile], Future[Any]] = decode_image,
) -> Conversation[Any]:
    """Checks messages and prepares their images, several at a time.

    An image part is ``{"type": "image", "image": PIL image, path, URL or bytes}`` or
    OpenAI's ``{"type": "image_url", "image_url": {"url": URL or path}}``.

    Args:
        messages: The conversation.
        directory: The directory to search for relative paths, before the working
            directory.
        prepare: Starts to prepare an image; by default it is decoded.

    Raises:
        MllamaError: If a message is malformed or an image can't be used.  The error
            numbers the message, from 1, if there are several.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise MllamaError("a conversation must be a list of messages")
    if not messages:
        raise MllamaError("a conversation must have at least one message")
    images = _ImagesInOrder(prepare)
    read = []
    try:
        for number, message in enumerate(messages, 1):
            if len(messages) > 1:
                images.message = f"message {number}: "
            try:
                read.append(_read_message(message, images, directory))
            except MllamaError as error:
                raise type(error)(f"{images.message}{error}") from error
        return Conversation(read, images.results())
    except BaseException:
        images.cancel()
        raise


def load_images(
    messages: Sequence[Message], directory: Path | None = None
) -> list[Message]:
    """Returns the same messages with the contents of their images, all checked.

    Errors are found before a model is loaded.  The images are decoded for that, but
    pixels would take too much memory to be kept until they are needed.

    Raises:
        MllamaError: As :func:`read_conversation`.
    """
    conversation = read_conversation(messages, directory, prepare=check_image)
    images = iter(conversation.images)
    return [
        {
            **message,
            "content": message["content"]
            if isinstance(message["content"], str)
            else [
                {**part, "image": next(images)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in conversation.messages
    ]


def prompt_messages(
    prompt: str, images: Any = (), system: str | None = None
) -> list[Message]:
    """Returns messages that ask one question, with the images before the text.

    The order matters: a text attends only to images before it.

    Args:
        prompt: The question.
        images: Several images, or one.
        system: A system prompt.

    Raises:
        MllamaError: If the images are neither.
    """
    if images is None or is_image_source(images):
        images = () if images is None else [images]
    if not isinstance(images, Iterable):
        raise MllamaError(
            f"images must be an image or a list of images, not {type(images).__name__}"
        )
    parts: list[Message] = [{"type": "image", "image": image} for image in images]
    user: Message = {
        "role": "user",
        "content": [*parts, {"type": "text", "text": prompt}] if parts else prompt,
    }
    if system is None:
        return [user]
    return [{"role": "system", "content": system}, user]


def _read_message(
    message: Any, images: _ImagesInOrder[Any], directory: Path | None
) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MllamaError('must be an object with "role" and "content"')
    # As in OpenAI's API, null is as good as nothing.
    message = {key: value for key, value in message.items() if value is not None}
    role = message.get("role")
    if role not in ROLES:
        raise MllamaError(f"role must be one of {', '.join(ROLES)}, not {role!r}")
    keys = {"role", "content", "name", *_KEYS.get(role, ())}
    unknown = sorted(map(str, message.keys() - keys))
    if unknown:
        raise MllamaError(f"{', '.join(map(repr, unknown))} is not supported")
    # What an answer of the server has beside its text and calls.
    message.pop("annotations", None)
    content = message.get("content", message.pop("refusal", None))
    message["role"] = "system" if role == "developer" else role
    if isinstance(content, str):
        parts: Any = content
    elif content is None and message.get("tool_calls"):
        parts = ""
    elif isinstance(content, Sequence) and not isinstance(content, bytes):
        parts = [_read_part(part, images, directory) for part in content]
    else:
        raise MllamaError("content must be a string or a list of parts")
    return {**message, "content": parts}


def _read_part(
    part: Any, images: _ImagesInOrder[Any], directory: Path | None
) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise MllamaError('a text part must have a string "text"')
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        source = part.get("image")
    elif kind == "image_url":
        source = part.get("image_url")
        source = source.get("url") if isinstance(source, Mapping) else source
    else:
        raise MllamaError(
            'a part must be an object whose "type" is text, image or image_url, '
            f"not {kind!r}"
        )
    if source is None:
        raise MllamaError(f"a part of type {kind} has no image")
    if directory is not None and isinstance(source, str):
        source = _found_in(directory, source)
    images.add(source)
    return {"type": "image"}


def _found_in(directory: Path, source: str) -> str | Path:
    """Returns the path of an image in a directory, or the source if it isn't there."""
    # A URL is never a path, however long it is.
    if url_scheme(source) is not None:
        return source
    path = directory / source
    try:
        return path if path.is_file() else source
    # The path is too long, or has a zero byte.
    except (OSError, ValueError):
        return source
