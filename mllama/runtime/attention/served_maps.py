"""Attention maps in a server's worker: computed within the steps that ask for them.

A request for maps is a request of its own, of prompt and answer.  It passes MAX's
scheduler, which reserves its images; the maps are made after its only step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from max.pipelines.context import TokenBuffer
from max.pipelines.kv_cache import InsufficientBlocksError
from max.pipelines.modeling.types import RequestID

from mllama.errors import EngineError, MllamaError
from mllama.image_cache.block_manager import ImageCacheFullError
from mllama.image_cache.manager import ImageCacheManager
from mllama.max_model.sampling_context import prompt_length_of
from mllama.requests.attention import AttentionMaps
from mllama.requests.map_exchange import holds_images, task_of, write_maps
from mllama.requests.map_task import MapTask
from mllama.runtime.fault_isolation import has_failed

logger = logging.getLogger("mllama")

HOLD_SECONDS: Final = 60.0
"""How long the images of an answer stay pinned until its maps are made."""

Execute = Callable[[Any], dict[Any, Any]]


class Mapper(Protocol):
    """Computes maps; ``AttentionMapper`` is one."""

    def compute(self, context: Any, *task: Any) -> AttentionMaps:
        """Computes maps of a context, grids, a first token, the answer's first token,
        and options."""
        ...


class ServedMaps:
    """Makes the maps that a server asks for.

    Args:
        mapper: Computes maps.
        image_cache: The image cache.
        directory: Where the server has made a file for each request for maps.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        mapper: Mapper,
        image_cache: ImageCacheManager,
        directory: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mapper = mapper
        self._image_cache = image_cache
        self._directory = directory
        self._clock = clock
        # When the images of answers are released, by their ids, oldest first.
        self._held: dict[str, float] = {}

    def after(self, execute: Execute) -> Execute:
        """Wraps ``execute`` to make the maps of requests whose step it has computed."""

        def executing(inputs: Any) -> dict[Any, Any]:
            outputs = execute(inputs)
            for context in inputs.flat_batch:
                output = outputs.get(context.request_id)
                if output is None or not output.is_done:
                    continue
                if has_failed(output.final_status):
                    continue
                if holds_images(context):
                    self._hold(context)
                if (found := task_of(context)) is not None:
                    self._make(context, *found)
            return outputs

        return executing

    def before(self, alloc: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Wraps the allocation for a request to release images that are held too long,
        or that take its room.

        MAX ends the worker if a request doesn't fit while no other one runs, so that
        held images must not keep one from running.
        """

        def allocating(context: Any) -> Any:
            self._expire()
            while True:
                try:
                    return alloc(context)
                except InsufficientBlocksError as error:
                    is_full = isinstance(error.__cause__, ImageCacheFullError)
                    if not (is_full and self._held):
                        raise
                    self._release(next(iter(self._held)))

        return allocating

    def _hold(self, context: Any) -> None:
        answer_id = str(context.request_id)
        # The request has pinned the same images, so that there is room.
        self._image_cache.reserve_as(_hold_id(answer_id), context)
        self._held[answer_id] = self._clock() + HOLD_SECONDS

    def _expire(self) -> None:
        now = self._clock()
        for answer_id in [each for each, end in self._held.items() if end <= now]:
            self._release(answer_id)

    def _release(self, answer_id: str) -> None:
        if self._held.pop(answer_id, None) is not None:
            self._image_cache.release(_hold_id(answer_id))

    def _make(self, context: Any, task: MapTask, answer_id: str) -> None:
        """Makes maps and writes them to their file."""
        path = self._directory / str(context.request_id)
        try:
            if path.exists():
                write_maps(path, self._maps(context, task, answer_id))
        except FileNotFoundError:
            pass  # The client has gone away meanwhile.
        except OSError as error:
            # The server finds the file without maps.
            logger.error("attention maps can't be written: %s", error)
        finally:
            self._release(answer_id)

    def _maps(
        self, context: Any, task: MapTask, answer_id: str
    ) -> AttentionMaps | Exception:
        # Without the token that MAX has generated.
        tokens = context.tokens.all[: prompt_length_of(context)]
        own = replace(
            context,
            request_id=RequestID(f"{context.request_id}.maps"),
            tokens=TokenBuffer(np.array(tokens, np.int64)),
        )
        try:
            return self._mapper.compute(
                own, task.grids, task.first, task.answer, task.options
            )
        except MllamaError as error:
            return error
        except Exception:
            logger.exception("attention maps of request %s failed", answer_id)
            return EngineError("the attention maps failed; the log says why")


def _hold_id(answer_id: str) -> RequestID:
    return RequestID(f"{answer_id}.held")
