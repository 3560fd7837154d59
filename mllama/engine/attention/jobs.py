"""Attention maps that the engine's thread computes between the scheduler's steps."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mllama.errors import EngineError
from mllama.requests.attention import AttentionMaps, AttentionOptions
from mllama.requests.map_task import map_task

if TYPE_CHECKING:
    from mllama.images.patch_grid import PatchGrid
    from mllama.requests.preparation import PreparedRequest
    from mllama.requests.request import GenerationRequest

WAIT_SECONDS: Final = 60.0
"""How long maps wait for room in the image cache, which other requests may pin."""


@dataclass
class AttentionJob:
    """The maps of one answer.

    Attributes:
        context: MAX's context of prompt and answer, with the images.
        grids: The patches of each image.
        first: The position of the first token that gets maps.
        answer: The position of the answer's first token.
        options: The layers and heads.
        maps: The result.
        until: When waiting for room ends, by ``time.monotonic()``.
    """

    context: Any
    grids: Sequence[PatchGrid]
    first: int
    answer: int
    options: AttentionOptions
    maps: Future[AttentionMaps] = field(default_factory=Future)
    until: float = field(default_factory=lambda: time.monotonic() + WAIT_SECONDS)

    @classmethod
    def of(
        cls,
        prepared: PreparedRequest,
        answer: Sequence[int],
        vision_config: Any,
        prepare: Callable[[GenerationRequest], PreparedRequest],
    ) -> AttentionJob | None:
        """Returns the job of an answer, or None if there is nothing to compute.

        Args:
            prepared: The answer's request.
            answer: The answer's tokens.
            vision_config: The vision encoder's configuration.
            prepare: Prepares a request.

        Raises:
            RequestError: If the maps would be too large.
        """
        found = map_task(prepared, answer, vision_config)
        if found is None:
            return None
        task, whole = found
        (context,) = prepare(whole).contexts
        return cls(context, task.grids, task.first, task.answer, task.options)


class AttentionJobs:
    """A queue of jobs, from the threads of callers to the engine's.

    Args:
        wake: Wakes the engine's thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._new: queue.SimpleQueue[AttentionJob] = queue.SimpleQueue()
        self._waiting: list[AttentionJob] = []

    def __bool__(self) -> bool:
        """Returns True if jobs wait."""
        return bool(self._waiting) or not self._new.empty()

    def submit(self, job: AttentionJob) -> Future[AttentionMaps]:
        """Adds a job and returns its result."""
        self._new.put(job)
        self._wake()
        return job.maps

    def run_next(self, compute: Callable[..., AttentionMaps]) -> None:
        """Runs the oldest job that there is room for.

        Args:
            compute: Computes maps of a context, grids, a first token and options.
        """
        from mllama.image_cache.block_manager import ImageCacheFullError

        while not self._new.empty():
            self._waiting.append(self._new.get())
        for job in list(self._waiting):
            try:
                maps = compute(
                    job.context, job.grids, job.first, job.answer, job.options
                )
            except ImageCacheFullError as full:
                if time.monotonic() < job.until:
                    continue
                error = EngineError(
                    "there was no room in the image cache for attention maps within "
                    f"{WAIT_SECONDS:.0f} s; ask again, or give the image cache more "
                    "memory (image_cache_size)"
                )
                error.__cause__ = full
                job.maps.set_exception(error)
            except BaseException as failure:
                job.maps.set_exception(failure)
            else:
                job.maps.set_result(maps)
            self._waiting.remove(job)
            return

    def end_all(self, reason: BaseException) -> None:
        """Ends all jobs with an error."""
        while not self._new.empty():
            self._waiting.append(self._new.get())
        for job in self._waiting:
            error = EngineError("the engine stopped while it computed attention maps")
            error.__cause__ = reason
            job.maps.set_exception(error)
        self._waiting = []
