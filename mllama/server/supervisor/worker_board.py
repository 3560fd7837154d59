"""What the worker announces: that it runs, that it gets on, and what it computes.

Both processes map a small file with the numbers, so that neither waits for the other,
and whether a worker computes, hangs or is stopped can be seen from outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from mllama.utils.shared_numbers import new_shared_file, shared_numbers

_BEAT_SECONDS: Final = 0.25

_SECONDS_PER_STEP: Final = 60
_SECONDS_PER_TOKEN: Final = 3
_SECONDS_PER_IMAGE: Final = 900
"""How long a step may go on computing: about ten times what a model of 11B parameters
takes on two cores, 37 to 99 s for a picture and up to 0.3 s for a prompt's token.  A
step that has stopped computing is noticed in seconds."""

_LOADING_SECONDS: Final = 6 * 3600
"""How long loading may take, which compiles the graphs of a new model."""


_STARTING_SECONDS: Final = 600
"""How long it may take until the worker announces that it loads: it imports MAX, which
takes 7 seconds of a processor."""


class WorkKind(IntEnum):
    """What a worker does; the numbers are in the shared file."""

    NONE = 0
    """Nothing that takes time."""

    LOADING = 1
    """It loads or compiles the model."""

    STEP = 2
    """It computes a step."""


@dataclass(frozen=True)
class Announcement:
    """What a worker says about itself.

    Attributes:
        beats: Grows several times a second while its process runs.
        rounds: Grows with each round of its scheduler, which are many a second.
        number: Grows with each announced piece of work.
        work: What it does.
        tokens: Tokens of the step that it computes.
        images: Images that the step encodes.
    """

    beats: int = 0
    rounds: int = 0
    number: int = 0
    work: WorkKind = WorkKind.NONE
    tokens: int = 0
    images: int = 0

    @property
    def progress(self) -> tuple[int, int]:
        """Returns what changes whenever the worker gets on."""
        return self.rounds, self.number

    @property
    def is_loaded(self) -> bool:
        """Returns True once the worker takes requests."""
        return self.rounds > 0

    @property
    def is_starting(self) -> bool:
        """Returns True until the worker has announced anything."""
        return not self.rounds and not self.number and self.work is WorkKind.NONE

    @property
    def limit_seconds(self) -> float | None:
        """Returns how long the work may go on computing; None if it takes no time."""
        if self.is_starting:
            return _STARTING_SECONDS
        if self.work is WorkKind.NONE:
            return None
        if self.work is WorkKind.LOADING:
            return _LOADING_SECONDS
        return (
            _SECONDS_PER_STEP
            + _SECONDS_PER_TOKEN * self.tokens
            + _SECONDS_PER_IMAGE * self.images
        )

    def __str__(self) -> str:
        """Returns what the worker does, as in "a step of 5 tokens and 1 image"."""
        if self.is_starting:
            return "its start"
        if self.work is WorkKind.NONE:
            return "its scheduler"
        if self.work is WorkKind.LOADING:
            return "loading the model"
        images = f" and {self.images} image(s)" if self.images else ""
        return f"a step of {self.tokens} token(s){images}"


_COUNT: Final = len(fields(Announcement))


class WorkerBoard:
    """The shared file.  The worker writes, the server reads.

    Args:
        path: The file, which :meth:`temporary` creates.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = shared_numbers(path, _COUNT)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[WorkerBoard]:
        """Creates the shared file, and removes it on exit."""
        with new_shared_file(_COUNT) as path:
            yield cls(path)

    def __reduce__(self) -> tuple[type[WorkerBoard], tuple[Path]]:
        return type(self), (self.path,)

    def clear(self) -> None:
        """Forgets what a worker has announced that has ended."""
        self._numbers[:] = 0

    def read(self) -> Announcement:
        """Returns what the worker announces."""
        beats, rounds, number, work, tokens, images = map(int, self._numbers)
        return Announcement(beats, rounds, number, WorkKind(work), tokens, images)

    def announce(self, work: WorkKind, tokens: int = 0, images: int = 0) -> None:
        """Announces what the worker does from now on."""
        _, _, number, *_ = self._numbers
        self._numbers[2:] = number + 1, work, tokens, images

    def set(self) -> None:
        """Counts a round of the scheduler.

        MAX's worker calls it before each, as if this were the event by which it tells
        that it is alive.
        """
        if not self._numbers[1]:
            self.announce(WorkKind.NONE)
        self._numbers[1] += 1

    def announcing(
        self, execute: Callable[[Any], Any], new_images: Callable[[], int]
    ) -> Callable[[Any], Any]:
        """Wraps a pipeline's ``execute`` to announce what it computes.

        Args:
            execute: Computes a batch.
            new_images: Returns the number of images that it will encode.
        """

        def announced(inputs: Any) -> Any:
            tokens = sum(each.tokens.active_length for each in inputs.flat_batch)
            self.announce(WorkKind.STEP, tokens, new_images())
            try:
                return execute(inputs)
            finally:
                self.announce(WorkKind.NONE)

        return announced

    def start_beating(self) -> None:
        """Starts a thread that shows that this process runs."""
        pause = threading.Event()

        def beat() -> None:
            while not pause.wait(_BEAT_SECONDS):
                self._numbers[0] += 1

        threading.Thread(target=beat, name="mllama-heartbeat", daemon=True).start()
