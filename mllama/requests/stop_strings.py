"""Nothing past a stop string reaches the client, nor the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringFilter:
    """Lets text through up to the first stop string.

    Text that may turn out to be the beginning of one is held back.

    Args:
        stop: Strings that end the answer and are not part of it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stopped = False
        """Whether a stop string has come."""

    def push(self, text: str) -> str:
        """Text that is certain to be part of the answer now that this has come."""
        self._held += text
        return self._release(self._uncertain())

    def finish(self) -> str:
        """What was held back, once no more text will come."""
        return self._release(0)

    def _release(self, uncertain: int) -> str:
        if self.stopped:
            return ""
        places = [self._held.find(text) for text in self._stop if text in self._held]
        if places:
            self.stopped = True
            text, self._held = self._held[: min(places)], ""
            return text
        keep = len(self._held) - uncertain
        text, self._held = self._held[:keep], self._held[keep:]
        return text

    def _uncertain(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        return max(
            (
                size
                for stop in self._stop
                for size in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:size])
            ),
            default=0,
        )
