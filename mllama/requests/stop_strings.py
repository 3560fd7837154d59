"""Stop strings, which end an answer and are not part of it."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringFilter:
    """A filter that passes text up to the first stop string.

    Text that may be the beginning of a stop string is held back.

    Args:
        stop: Strings that end the answer and are not part of it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.found: str | None = None
        """The stop string that has appeared first."""

    def push(self, text: str) -> str:
        """Adds text and returns the text that is now certain to be in the answer."""
        self._held += text
        return self._release(self._possible_start())

    def finish(self) -> str:
        """Returns the text that was held back, after the last piece."""
        return self._release(0)

    def _release(self, held_back: int) -> str:
        if self.found is not None:
            return ""
        places = {self._held.find(text): text for text in reversed(self._stop)}
        places.pop(-1, None)
        if places:
            place = min(places)
            self.found = places[place]
            text, self._held = self._held[:place], ""
            return text
        keep = len(self._held) - held_back
        text, self._held = self._held[:keep], self._held[keep:]
        return text

    def _possible_start(self) -> int:
        """Returns the length of the longest suffix that may begin a stop string."""
        return max(map(self._begun, self._stop), default=0)

    def _begun(self, stop: str) -> int:
        """Returns the length of the longest suffix that begins a stop string."""
        held = self._held
        place = held.find(stop[0], max(len(held) - len(stop) + 1, 0))
        while place >= 0:
            # The first place that is found is of the longest one.
            if stop.startswith(held[place:]):
                return len(held) - place
            place = held.find(stop[0], place + 1)
        return 0
