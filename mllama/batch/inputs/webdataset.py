"""Samples of WebDataset's tar files: neighbors whose names differ in their ends."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final

from mllama.batch.inputs.question import Question, wrong
from mllama.batch.lines import BatchLine
from mllama.images.fetch import MAX_BYTES

PICTURE_ENDS: Final = (
    "jpg",
    "jpeg",
    "png",
    "webp",
    "gif",
    "bmp",
    "tif",
    "tiff",
    "ppm",
    "avif",
    "heic",
    "heif",
    "jp2",
    "tga",
)
"""How names of pictures end, in small letters."""

_MAX_TEXT_BYTES: Final = 2**20


def read_samples(
    file: BinaryIO,
    name: str,
    question: Question,
    *,
    image_end: str | None,
    prompt_end: str | None,
    first_number: int,
) -> Iterator[BatchLine]:
    """Yields a question about each sample's picture, reading the file once.

    Args:
        file: The tar file, compressed or not.
        name: What its samples are called by.
        question: The question.
        image_end: How the name of a sample's picture ends, such as ``jpg``, in letters
            of any case; None is any that pictures have.
        prompt_end: How the name of the file with its question ends, likewise.
        first_number: The number of the first line.

    Raises:
        OSError: If the file is damaged.
    """
    number = first_number
    key: str | None = None
    members: dict[str, bytes | str] = {}
    try:
        # A name that is no UTF-8 becomes one that JSON can have.
        with tarfile.open(
            fileobj=file, mode="r|*", errors="backslashreplace"
        ) as archive:
            for member in archive:
                # Otherwise the archive keeps all that it has seen.
                archive.members = []  # type: ignore[attr-defined]
                if not member.isfile():
                    continue
                folder, slash, base = member.name.rpartition("/")
                stem, _, end = base.partition(".")
                if f"{folder}{slash}{stem}" != key:
                    if key is not None:
                        yield _line(number, f"{name}:{key}", question, members)
                        number += 1
                    key, members = f"{folder}{slash}{stem}", {}
                role = _role(end, image_end, prompt_end)
                if role is not None and role not in members:
                    members[role] = _content(archive, member, role)
        if key is not None:
            yield _line(number, f"{name}:{key}", question, members)
    except (tarfile.TarError, EOFError) as error:
        raise OSError(f"damaged: {error}") from error


def _role(end: str, image_end: str | None, prompt_end: str | None) -> str | None:
    end = end.lower()
    if prompt_end is not None and end == prompt_end.lower():
        return "prompt"
    ends = PICTURE_ENDS if image_end is None else (image_end.lower(),)
    return "image" if end in ends else None


def _content(
    archive: tarfile.TarFile, member: tarfile.TarInfo, role: str
) -> bytes | str:
    """Returns a member's content; a text says why it has none."""
    limit = MAX_BYTES if role == "image" else _MAX_TEXT_BYTES
    if member.size > limit:
        return f"{member.name[:80]} has more than {limit // 2**20} MiB."
    content = archive.extractfile(member)
    assert content is not None
    return content.read()


def _line(
    number: int,
    custom_id: str,
    question: Question,
    members: dict[str, bytes | str],
) -> BatchLine:
    for value in members.values():
        if isinstance(value, str):
            return wrong(number, custom_id, "invalid_image", value)
    image, prompt = members.get("image"), members.get("prompt")
    if image is None:
        return wrong(number, custom_id, "invalid_image", "The sample has no picture.")
    assert isinstance(image, bytes)
    try:
        text = None if prompt is None else bytes(prompt).decode().strip()  # type: ignore[arg-type]
    except UnicodeDecodeError:
        return wrong(number, custom_id, "invalid_type", "The question is not UTF-8.")
    return question.line(number, custom_id, [image], text)
