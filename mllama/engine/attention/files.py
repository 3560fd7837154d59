"""Files that show attention: PNG, HTML and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mllama.errors import MllamaError

if TYPE_CHECKING:
    from mllama.engine.attention.attention import Attention


def _png(attention: Attention) -> bytes:
    from mllama.engine.attention.sheet import sheet

    content = BytesIO()
    sheet(attention).save(content, "PNG", optimize=True)
    return content.getvalue()


def _html(attention: Attention) -> bytes:
    from mllama.engine.attention.page import page

    return page(attention).encode()


def _json(attention: Attention) -> bytes:
    text = json.dumps(attention.to_dict(), ensure_ascii=False)
    return f"{text}\n".encode()


_WRITERS: Final[dict[str, Callable[[Attention], bytes]]] = {
    ".png": _png,
    ".html": _html,
    ".json": _json,
}


def check_file_name(path: Path) -> None:
    """Checks that attention can be saved to a file of this name.

    Raises:
        MllamaError: If its ending is another, or its directory doesn't exist.
    """
    if path.suffix.lower() not in _WRITERS:
        raise MllamaError(
            f"{path}: attention is saved to a file that ends in "
            f"{', '.join(list(_WRITERS)[:-1])} or {list(_WRITERS)[-1]}"
        )
    if not path.parent.is_dir():
        raise MllamaError(f"{path}: there is no directory {path.parent}")


def save(attention: Attention, path: Path) -> None:
    """Writes attention to a file, by its ending.

    Raises:
        MllamaError: If the ending is another, or the file can't be written.
    """
    check_file_name(path)
    content = _WRITERS[path.suffix.lower()](attention)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise MllamaError(f"{path}: {error.strerror}") from error
