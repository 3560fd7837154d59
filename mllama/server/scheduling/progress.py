"""How fast the engine makes progress, measured on the requests that it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.prompt_tokens import text_size
from mllama.requests.request import GenerationRequest

_REMEMBERED: Final = 64
"""Completions after which older ones count half."""

_CHARACTERS_PER_TOKEN: Final = 4


@dataclass(frozen=True)
class PromptWork:
    """What the engine has to do before a request's first token.

    Attributes:
        characters: Size of the prompt, which isn't tokenized yet.
        images: Number of its images.
    """

    characters: int = 0
    images: int = 0


def work_of(request: GenerationRequest) -> PromptWork:
    """Returns the work before a request's first token."""
    prompt = request.prompt
    characters = (
        text_size(prompt.messages) + text_size(prompt.tools)
        if isinstance(prompt, ChatPrompt)
        else len(prompt) * (1 if isinstance(prompt, str) else _CHARACTERS_PER_TOKEN)
    )
    return PromptWork(characters, len(request.images))


class BusyRate:
    """The seconds that each of some things takes, while the engine is busy with them.

    However many are under way together, this is the time from one completion to the
    next, and not how long one of them takes.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None
        self._seconds = 0.0
        self._completed = 0.0

    def set_busy(self, is_busy: bool) -> None:
        """Notes whether the engine is busy with such things."""
        if is_busy and self._since is None:
            self._since = self._clock()
        elif not is_busy and self._since is not None:
            self._seconds += self._clock() - self._since
            self._since = None

    def complete(self, count: float) -> None:
        """Notes that some are complete."""
        if self._since is not None:
            now = self._clock()
            self._seconds += now - self._since
            self._since = now
        self._completed += count
        if self._completed > _REMEMBERED * max(count, 1):
            self._completed /= 2
            self._seconds /= 2

    @property
    def seconds(self) -> float:
        """Returns the seconds for each; 0 if nothing is known.

        While the first ones go on, they take at least as long as until now.
        """
        running = 0.0 if self._since is None else self._clock() - self._since
        return (self._seconds + running) / (self._completed or 1)


class Progress:
    """The engine's progress: prompts that it reads, and slots that become free.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._images = BusyRate(clock)
        self._characters = BusyRate(clock)
        self._slots = BusyRate(clock)
        # Prompts that the engine has and hasn't read.
        self._unread: dict[int, PromptWork] = {}

    @property
    def slot_seconds(self) -> float:
        """Returns the time from one free slot to the next; 0 if it isn't known."""
        return self._slots.seconds

    def set_saturated(self, is_saturated: bool) -> None:
        """Notes whether all slots are taken while requests wait."""
        self._slots.set_busy(is_saturated)

    def slot_freed(self) -> None:
        """Notes that an answer has ended while all slots were taken."""
        self._slots.complete(1)

    def begun(self, key: int, work: PromptWork) -> None:
        """Notes that the engine has got a prompt.

        Args:
            key: Names the request.
            work: What there is to do for it.
        """
        self._unread[key] = work
        self._note_busy()

    def read(self, key: int) -> None:
        """Notes that the engine has read a prompt."""
        work = self._unread.pop(key, None)
        if work is None:
            return
        if work.images:
            self._images.complete(work.images)
        elif not any(each.images for each in self._unread.values()):
            self._characters.complete(work.characters)
        self._note_busy()

    def ended(self, key: int) -> None:
        """Notes that a request is over, whether or not its prompt was read."""
        if self._unread.pop(key, None) is not None:
            self._note_busy()

    def _note_busy(self) -> None:
        has_images = any(each.images for each in self._unread.values())
        self._images.set_busy(has_images)
        self._characters.set_busy(bool(self._unread) and not has_images)

    def seconds_until_first_token(
        self, work: PromptWork, ahead: Iterable[PromptWork], *, free_slots: int
    ) -> float:
        """Returns an estimate for a request that comes now.

        The engine reads the prompts that it has, and those ahead get a slot each
        before this one.  As many slots become free in that time as did before, if
        their prompts aren't longer than those before, which would hold all up.

        Args:
            work: What there is to do for the request.
            ahead: The same for those that wait and come before it.
            free_slots: How many slots nobody has.
        """
        waiting = list(ahead)
        slots_needed = max(0, len(waiting) + 1 - free_slots)
        return (
            sum(map(self._prompt_seconds, self._unread.values()))
            + max(
                slots_needed * self.slot_seconds,
                sum(map(self._prompt_seconds, waiting)),
            )
            + self._prompt_seconds(work)
        )

    def _prompt_seconds(self, work: PromptWork) -> float:
        if work.images:
            # Their text takes little beside them.
            return work.images * self._images.seconds
        return work.characters * self._characters.seconds
