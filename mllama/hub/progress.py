"""How far downloads from the hub are."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from tqdm import tqdm


class DownloadBar:
    """One progress bar for all files, on a terminal only.

    Args:
        title: What is being downloaded.
        quiet: Whether to show nothing.
    """

    def __init__(self, title: str, quiet: bool) -> None:
        self._bar: tqdm[Any] = tqdm(
            desc=title,
            total=0,
            unit="B",
            unit_scale=True,
            disable=True if quiet else None,
            dynamic_ncols=True,
        )
        self._lock = Lock()

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def expect(self, count: int) -> None:
        """Adds bytes that are to come."""
        with self._lock:
            self._bar.total += count
            self._bar.refresh()

    def advance(self, count: int) -> None:
        """Adds bytes that have come."""
        with self._lock:
            self._bar.update(count)

    def client_class(self) -> Any:
        """What the client takes for a bar of its own, a file each."""
        shared = self

        class Counting:
            def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
                shared.expect(total or 0)

            def __enter__(self) -> Counting:
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def update(self, count: float | None = 1) -> None:
                shared.advance(int(count or 0))

            def __getattr__(self, name: str) -> Callable[..., None]:
                return lambda *_, **__: None

        return Counting
