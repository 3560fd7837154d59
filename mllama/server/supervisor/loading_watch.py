"""Notices a worker that doesn't get on before it takes requests.

Loading may do nothing for a while that its own process shows: other processes compile,
or a slow disk is read.  So all of them are watched, for minutes.
"""

from __future__ import annotations

from typing import Final

from mllama.server.supervisor.process_tree import TreeActivity

LOOK_SECONDS: Final = 5.0
"""Between two looks."""

STILL_SECONDS: Final = 300.0
"""How long a worker that loads must do nothing.  It may wait for another server that
builds the same Mojo packages, which takes seconds, or minutes on a busy machine."""

_IDLE_SHARE: Final = 0.1
"""Share of a core below which processes do nothing.  MAX's idle threads take 0.03."""

_WANTING_SHARE: Final = 0.1
"""Share of the looks at which idle processes may be seen to run."""

_TRANSFERRED_BYTES: Final = 1 << 20
"""What processes that do nothing read and write at most."""

_PAGE_FAULTS: Final = 100
"""How often mapped files are read for them at most."""

_LONGEST_TICK: Final = 2 * LOOK_SECONDS
"""Seconds between two looks that count at most."""


class LoadingWatch:
    """Judges a worker by what is seen of it and its descendants while it loads.

    As with :class:`~mllama.server.supervisor.hang_detector.HangDetector`, only time
    counts during which somebody looked.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._watched = 0.0
        # The look after which little has happened, and when that was.
        self._since: TreeActivity | None = None
        self._since_watched = 0.0
        self._wanting = 0

    def is_still(self, at: float, activity: TreeActivity | None) -> bool:
        """Returns True if the worker has done nothing for long.

        Args:
            at: Time in seconds, by the monotonic clock.
            activity: What is seen; None if the system doesn't tell.
        """
        if self._last is not None:
            self._watched += min(max(at - self._last, 0), _LONGEST_TICK)
        self._last = at
        if activity is None or self._gets_on(activity):
            self._since, self._since_watched = activity, self._watched
            self._wanting = 0
            return False
        self._wanting += activity.wants_to_run
        return self._watched - self._since_watched >= STILL_SECONDS

    def _gets_on(self, now: TreeActivity) -> bool:
        """Returns True if more has happened than in a whole time of doing nothing."""
        since = self._since
        return (
            since is None
            or now.pids != since.pids
            or now.cpu_seconds - since.cpu_seconds >= _IDLE_SHARE * STILL_SECONDS
            or now.transferred_bytes - since.transferred_bytes >= _TRANSFERRED_BYTES
            or now.page_faults - since.page_faults >= _PAGE_FAULTS
            or self._wanting >= _WANTING_SHARE * STILL_SECONDS / LOOK_SECONDS
        )
