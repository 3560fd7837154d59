"""Pictures in files of the machine on which a batch was begun."""

from __future__ import annotations

from pathlib import Path

from mllama.batch.lines import local_path
from mllama.errors import ImageError, shortened
from mllama.images.fetch import MAX_BYTES


def read_picture(url: str, folder: Path) -> bytes:
    """Returns the content of the file that a ``file:`` URL names.

    Args:
        url: The URL.
        folder: Where relative ones begin.

    Raises:
        ImageError: If it can't be read, or is too large.
    """
    name = shortened(url)
    try:
        path = local_path(url, folder)
        name = shortened(str(path))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} can't be read: {reason}") from error
    if len(content) > MAX_BYTES:
        raise ImageError(f"{name} has more than {MAX_BYTES // 2**20} MiB")
    return content
