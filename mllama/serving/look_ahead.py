"""The next step of a batch runs while the scheduler works on the last one's tokens.

Between two steps MAX's scheduler hands out tokens and makes up the next batch, which is
nearly always the same again.  On a CPU, where a graph's run is waited for, the cores
would do little else meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from max.pipelines.modeling.types import TextGenerationInputs

Progress = list[tuple[Any, int, int]]
"""Of each request of a batch, in its order: its name, how many of its tokens were
computed, and how many are to be."""


@dataclass
class _Step:
    """A step that nobody has asked for yet.

    Attributes:
        progress: The batch that it computes.
        prepared: What MAX's ``prepare_batch`` makes of it.
        outputs: The model's, once it has run.
    """

    progress: Progress
    prepared: tuple[Any, ...]
    outputs: Any = None


class LookAhead:
    """Takes the place of a pipeline's ``execute``, which runs in a thread from now on.

    If a batch has the requests of the one before, and all of them go on, the next is
    expected to have them too.  The thread hands over the tokens and runs that step at
    once.  If another batch is asked for, because a request was cancelled or a new one
    is to be read first, it waits for the thread, and what that has computed is
    forgotten.  Nothing else has to be undone: keys and values of the last tokens were
    written, and will be again.

    Args:
        pipeline: MAX's ``TextGenerationPipeline`` of an ``MllamaModel`` on a CPU.
    """

    def __init__(self, pipeline: Any) -> None:
        self._kv_manager = pipeline.kv_manager
        self._page_size = pipeline._pipeline_model.kv_params.page_size
        self._last: list[Any] = []
        self._prepared: tuple[Any, ...] = ()
        self._ahead: _Step | None = None
        self._has_released = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mllama-steps")
        self._execute = pipeline.execute
        self._prepare_batch = pipeline.prepare_batch
        self._launch = pipeline._launch_forward_pass
        self._release = pipeline.release
        self._shutdown = pipeline.kv_manager.shutdown
        pipeline.execute = self.execute
        pipeline.prepare_batch = self.prepare_batch
        pipeline._launch_forward_pass = self.launch_forward_pass
        pipeline.release = self.release
        pipeline.kv_manager.shutdown = self.shutdown

    def execute(self, inputs: TextGenerationInputs[Any]) -> dict[Any, Any]:
        """Computes a batch, or waits for it while it is computed already."""
        outputs: Future[dict[Any, Any]] = Future()
        self._thread.submit(self._step, inputs, outputs)
        return outputs.result()

    def release(self, request_id: Any) -> None:
        """In place of the pipeline's, while a step may be under way."""
        self._has_released = True
        self._release(request_id)

    def shutdown(self) -> None:
        """Waits for a step that is under way, so that its memory can be freed."""
        self._thread.shutdown()
        self._shutdown()

    def _step(
        self, inputs: TextGenerationInputs[Any], result: Future[dict[Any, Any]]
    ) -> None:
        try:
            outputs = self._execute(inputs)
            step = self._next(inputs, outputs)
        except BaseException as error:
            self._last, self._ahead = [], None
            result.set_exception(error)
            return
        result.set_result(outputs)
        if step is not None:
            self._run(step)

    def prepare_batch(self, batches: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """In place of the pipeline's: what a step that has run was prepared with."""
        if (
            self._ahead is not None
            and not self._has_released
            and self._ahead.progress == _progress(batches)
        ):
            return self._ahead.prepared
        self._ahead, self._has_released = None, False
        self._prepared = self._prepare_batch(batches)
        return self._prepared

    def launch_forward_pass(self, *arguments: Any, **options: Any) -> Any:
        """In place of the pipeline's: the outputs of a step that has run."""
        step, self._ahead = self._ahead, None
        return self._launch(*arguments, **options) if step is None else step.outputs

    def _next(
        self, inputs: TextGenerationInputs[Any], outputs: dict[Any, Any]
    ) -> _Step | None:
        """What is expected to be asked for next, prepared."""
        before, self._last = self._last, [c.request_id for c in inputs.flat_batch]
        if not self._last or self._last != before or not _go_on(inputs, outputs):
            self._prepared = ()  # It may hold pictures.
            return None
        progress = _progress(inputs.batches)
        if self._is_alike(progress):
            self._prepared[0].advance([c.tokens.active[0] for c in inputs.flat_batch])
            return _Step(progress, self._prepared)
        try:
            for context in inputs.flat_batch:
                self._kv_manager.alloc(context)
            self._prepared = self._prepare_batch(inputs.batches)
        except Exception:
            # It happens again when the scheduler asks, who knows what to do.
            return None
        return _Step(progress, self._prepared)

    def _is_alike(self, progress: Progress) -> bool:
        """Whether a step differs from the last one in tokens and lengths only."""
        was_decoding = self._prepared[0].tokens.num_elements == len(progress)
        return was_decoding and all(
            # The first token of a block needs the block.
            new == 1 and computed % self._page_size
            for _, computed, new in progress
        )

    def _run(self, step: _Step) -> None:
        inputs, _, batch = step.prepared
        try:
            step.outputs = self._launch(inputs, batch, step=0)
        except Exception:
            # As above.
            return
        self._ahead = step


def _progress(batches: Sequence[Sequence[Any]]) -> Progress:
    return [
        (
            context.request_id,
            context.tokens.processed_length,
            context.tokens.active_length,
        )
        for batch in batches
        for context in batch
    ]


def _go_on(inputs: TextGenerationInputs[Any], outputs: dict[Any, Any]) -> bool:
    """Whether each request of a batch has got a token and wants another."""
    return all(
        (output := outputs.get(context.request_id)) is not None
        and output.tokens
        and not output.is_done
        # What a grammar allows is worked out while a step is prepared, only once.
        and not context.json_schema
        and not context.grammar
        for context in inputs.flat_batch
    )
