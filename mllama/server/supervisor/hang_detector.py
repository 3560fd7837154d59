"""Tells a worker that hangs or is stopped from one that computes.

A step of a large model takes minutes on a small machine, so time alone says nothing.
What the worker announces is compared with what the system says about its process:

- Rounds of the scheduler go on: it works.
- For some seconds there is no round, the process uses next to no processor time, and
  none of its threads waits for a processor or a disk: it is stopped, or its threads
  wait for each other.  A step on a GPU may look like that, and isn't judged so.
- It computes, and the limit of the announced work has passed: it will never end.  A
  scheduler that has announced nothing may use a few seconds of processor time.

While it loads, it may do nothing for longer: ``loading_watch.py`` judges that.

Only time counts during which the supervisor itself ran, so that neither a suspended nor
a starved machine makes a worker look as if it hung: a starved thread waits for a
processor, and its processor time doesn't grow.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from mllama.server.supervisor.worker_board import Announcement, WorkKind
from mllama.utils.process_activity import ProcessActivity

STILL_SECONDS: Final = 3.0
"""How long a process must do nothing, without a round of its scheduler."""

LONGEST_ROUND_SECONDS: Final = 3.0
"""Processor time that a round of the scheduler may take beside the announced work; it
takes milliseconds."""

_IDLE_SHARE: Final = 0.2
"""Share of a core below which a process does nothing.  MAX's idle threads take 0.03."""

_WANTING_SHARE: Final = 0.5
"""Share of the looks at which an idle process may be seen to run, as it does when a
timer of MAX has just expired."""

_STOPPED_SHARE: Final = 0.8
"""Share of the looks at which a stopped process is seen to be stopped."""

_LONGEST_TICK: Final = 0.5
"""Seconds between two looks that count at most."""


@dataclass(frozen=True)
class Look:
    """What is seen of a worker at a moment.

    Attributes:
        at: Time in seconds, by the monotonic clock.
        announcement: What the worker announces.
        activity: What its process does; None if the system doesn't tell.
    """

    at: float
    announcement: Announcement
    activity: ProcessActivity | None


@dataclass(frozen=True)
class _Past:
    """A look, at the time that was watched."""

    watched: float
    look: Look


class HangDetector:
    """Judges a worker by what is seen of it several times a second while it doesn't
    get on.

    Args:
        on_host: Whether steps are computed by the worker's own threads.
        longest_step: Seconds that a step may take, whatever it computes; None leaves
            that to what is announced.
    """

    def __init__(self, *, on_host: bool, longest_step: float | None = None) -> None:
        self._on_host = on_host
        self._longest_step = longest_step
        self._last: Look | None = None
        self._watched = 0.0
        # Looks since the worker got on, and the first one of them.
        self._since: _Past | None = None
        self._recent: deque[_Past] = deque()

    def judge(self, look: Look) -> str | None:
        """Returns what is wrong with the worker, as the end of a sentence, or None.

        Args:
            look: What is seen now.
        """
        if self._last is not None:
            self._watched += min(max(look.at - self._last.at, 0), _LONGEST_TICK)
        before, self._last = self._last, look
        got_on = (
            before is None or before.announcement.progress != look.announcement.progress
        )
        now = _Past(self._watched, look)
        if got_on:
            self._since = now
            self._recent.clear()
        self._recent.append(now)
        while (
            len(self._recent) > 1
            and self._watched - self._recent[1].watched >= STILL_SECONDS
        ):
            self._recent.popleft()
        assert self._since is not None
        silent = self._watched - self._since.watched
        if self._watched - self._recent[0].watched < STILL_SECONDS:
            return None
        return self._stillness(look) or self._endlessness(look, silent)

    def _stillness(self, look: Look) -> str | None:
        """Returns what is wrong with a process that does nothing."""
        first, announcement = self._recent[0].look, look.announcement
        beats = announcement.beats - first.announcement.beats
        if look.activity is None or first.activity is None:
            # Without other evidence, the heartbeat decides.
            has_begun = announcement.beats > 0
            return None if beats or not has_begun else "has stopped running"
        stopped = sum(_is_stopped(past.look) for past in self._recent)
        # It still ran at the first of these looks if it got on then.
        if _is_stopped(look) and stopped >= _STOPPED_SHARE * len(self._recent):
            return "was stopped by a signal"
        watched = self._recent[-1].watched - self._recent[0].watched
        used = look.activity.cpu_seconds - first.activity.cpu_seconds
        wanting = sum(_wants_to_run(past.look) for past in self._recent)
        if (
            used >= _IDLE_SHARE * watched
            or wanting >= _WANTING_SHARE * len(self._recent)
            or not announcement.is_loaded
        ):
            return None
        if _is_stopped(look):
            return "was stopped by a signal"
        if announcement.work is WorkKind.NONE or self._on_host:
            return f"hangs: {announcement} has stopped computing"
        return None

    def _endlessness(self, look: Look, silent: float) -> str | None:
        """Returns what is wrong with a process that computes without an end."""
        assert self._since is not None
        announcement = look.announcement
        limit = announcement.limit_seconds
        if announcement.work is WorkKind.STEP and self._longest_step is not None:
            limit = self._longest_step
        if limit is not None:
            return f"hangs: {announcement} has no end" if silent > limit else None
        before = self._since.look.activity
        if not announcement.is_loaded or look.activity is None or before is None:
            return None
        used = look.activity.cpu_seconds - before.cpu_seconds
        if used <= LONGEST_ROUND_SECONDS:
            return None
        return f"hangs: {announcement} has no end"


def _is_stopped(look: Look) -> bool:
    return look.activity is not None and look.activity.is_stopped


def _wants_to_run(look: Look) -> bool:
    return look.activity is not None and look.activity.wants_to_run
