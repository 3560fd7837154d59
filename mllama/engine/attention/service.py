"""Attention maps of an engine's answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mllama.engine.attention.jobs import AttentionJob, AttentionJobs
from mllama.requests.attention import NO_MAPS, AttentionMaps
from mllama.utils.progress import StartupProgress

if TYPE_CHECKING:
    from mllama.engine.attention.attention import Attention
    from mllama.engine.engine import Engine
    from mllama.images.load import ImageFile
    from mllama.requests.preparation import PreparedRequest


class AttentionService:
    """Computes where answers looked, in the engine's thread between two steps.

    Args:
        engine: The engine.
        wake: Wakes the engine's thread.
        quiet: Whether to hide the progress of compiling the graph.
    """

    def __init__(
        self, engine: Engine, wake: Callable[[], None], *, quiet: bool
    ) -> None:
        self._engine = engine
        self._quiet = quiet
        self._jobs = AttentionJobs(wake)
        self._ended: BaseException | None = None
        self._lock = threading.Lock()
        self.mapper: Any = None
        """The pipeline's ``AttentionMapper``, once it is loaded."""

    def __bool__(self) -> bool:
        """Returns True if maps are to be computed."""
        return bool(self._jobs)

    def of_request(
        self, prepared: PreparedRequest, files: Sequence[ImageFile]
    ) -> Callable[[Sequence[int], str], Attention] | None:
        """Returns what computes where the answers to a request looked.

        Args:
            prepared: The request.
            files: The files of its images.

        Returns:
            A function of an answer's tokens and its text; None if the request asks for
            no maps.

        Raises:
            RequestError: If the maps that it asks for can't be computed.
            RuntimeError: If the engine is closed.
        """
        if prepared.request.attention is None:
            return None
        self.check(prepared)
        return partial(self._attention, prepared, files)

    def check(self, prepared: PreparedRequest) -> None:
        """Checks that the maps that a request asks for can be computed.

        Raises:
            RequestError: If they can't.
            RuntimeError: If the engine is closed.
        """
        options = prepared.request.attention
        if (mapper := self.mapper) is None:
            raise RuntimeError("the model is closed")
        if options is not None:
            mapper.check(options, len(prepared.token_ids))

    def _attention(
        self,
        prepared: PreparedRequest,
        files: Sequence[ImageFile],
        answer: Sequence[int],
        text: str,
    ) -> Attention:
        from mllama.engine.attention.attention import Attention

        maps = self.maps(prepared, answer)
        delegate = self._engine.tokenizer.delegate
        return Attention.of(maps, prepared, answer, text, files, delegate)

    def maps(self, prepared: PreparedRequest, answer: Sequence[int]) -> AttentionMaps:
        """Returns the maps of an answer, when the engine's thread has computed them.

        Args:
            prepared: The request.
            answer: The answer's tokens.

        Raises:
            MllamaError: If they can't be computed.
            RuntimeError: If the engine is closed.
        """
        job = AttentionJob.of(
            prepared,
            answer,
            self._engine.tokenizer.vision_config,
            lambda request: self._engine.prepare(request).result(),
        )
        if job is None:
            return NO_MAPS
        with self._lock:
            if self._ended is not None:
                raise RuntimeError("the model is closed") from self._ended
            result = self._jobs.submit(job)
        return result.result()

    def run_next(self) -> None:
        """Computes the next maps, if there are any; the engine's thread calls it."""
        if self._jobs:
            self._jobs.run_next(self._compute)

    def _compute(self, *arguments: Any) -> AttentionMaps:
        """Computes maps; the first time, their graph is loaded or compiled before."""
        from mllama.max_compat.model import ensure_default_mlir_context

        if not self.mapper.is_loaded:
            with ensure_default_mlir_context():
                if self._quiet:
                    self.mapper.load()
                else:
                    with StartupProgress():
                        self.mapper.load()
        maps: AttentionMaps = self.mapper.compute(*arguments)
        return maps

    def end_all(self, reason: BaseException) -> None:
        """Ends what is asked for with an error, and asks for nothing more."""
        with self._lock:
            self._ended = reason
            self._jobs.end_all(reason)
        self.mapper = None
