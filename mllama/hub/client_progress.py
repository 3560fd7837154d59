"""The progress of downloads that the hub's client does by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mllama.utils.byte_progress import FileProgress


def client_bar_class(file: FileProgress) -> Any:
    """Returns a class to give to the client as ``tqdm_class`` for one file.

    Its instances show nothing themselves: they count into the display of the file.
    """

    class CountingBar:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> CountingBar:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            file.advance(int(count or 0))

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_, **__: None

    return CountingBar
