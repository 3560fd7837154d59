"""The next step of a batch runs while the scheduler works on the last one's tokens.

Between two steps MAX's scheduler hands out tokens and makes up the next batch, which is
nearly always the same again.  On a CPU, where a graph's run is waited for, the cores
would do little else meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from max.pipelines.modeling.types import TextGenerationInputs

from mllama.max_compat.model import update_context_and_prepare_responses
from mllama.runtime.next_step import (
    Ends,
    Step,
    ends_of,
    go_on,
    keeps_blocks,
    progress_of,
)


class OverlappedExecution:
    """Has a pipeline's steps run in a thread, also before they are asked for.

    If a batch has the requests of the one before, and all of them go on, the next is
    expected to have them too.  Where the likeliest tokens are chosen the thread can
    tell by itself, and begins that step before it hands over the last one's outputs;
    else it begins when MAX has noted the tokens.  If another batch is asked for, for a
    request was cancelled or a new one is to be read first, that waits for the thread,
    and what was computed ahead is forgotten.  Nothing else has to be undone: keys and
    values of the last tokens were written, and will be again.

    The thread is never more than one step ahead of what was asked for.

    Args:
        pipeline: MAX's ``TextGenerationPipeline`` of an ``MllamaModel`` on a CPU.
    """

    def __init__(self, pipeline: Any) -> None:
        self._kv_manager = pipeline.kv_manager
        self._page_size = pipeline._pipeline_model.kv_params.page_size
        self._sampling = pipeline.pipeline_config.sampling
        self._inputs: TextGenerationInputs[Any] | None = None
        self._last: list[Any] = []
        self._asked: Step | None = None
        self._ahead: Step | None = None
        self._has_released = False
        self._lock = Lock()
        self._steps: SimpleQueue[Step | None] = SimpleQueue()
        # No executor's: Python ends those before whoever would close the model.
        self._thread = Thread(target=self._work, name="mllama-steps", daemon=True)
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
        self._thread.start()

    def execute(self, inputs: TextGenerationInputs[Any]) -> dict[Any, Any]:
        """In place of the pipeline's; begins the next step if the thread has not."""
        self._inputs = inputs
        self._asked = self._expected(inputs.batches)
        try:
            outputs = self._noted(inputs)
            if outputs is None:
                outputs = self._execute(inputs)
            self._foresee(inputs, outputs)
        except BaseException:
            self._last = []
            self._forget()
            raise
        finally:
            self._inputs = self._asked = None  # They may hold pictures.
        return outputs

    def release(self, request_id: Any) -> None:
        """In place of the pipeline's, while a step may be under way."""
        self._has_released = True
        self._release(request_id)

    def shutdown(self) -> None:
        """Waits for a step that is under way, so that its memory can be freed."""
        self._steps.put(None)
        self._thread.join()
        self._shutdown()

    def prepare_batch(self, batches: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """In place of the pipeline's: what a step under way was prepared with."""
        if self._asked is None:
            self._forget()
            self._has_released = False
            progress = progress_of(batches)
            prepared = self._prepare_batch(batches)
            is_same = [name for name, _, _ in progress] == self._last
            ends = self._ends() if is_same else None
            self._asked = Step(progress, prepared, ends)
        return self._asked.prepared

    def launch_forward_pass(self, *_: Any, **__: Any) -> Any:
        """In place of the pipeline's: the outputs of the step that was prepared."""
        step = self._asked
        assert step is not None
        if step is self._ahead:
            return self._awaited(step)
        step.is_asked_for = True
        self._steps.put(step)
        return step.outputs.result()

    def _noted(self, inputs: TextGenerationInputs[Any]) -> dict[Any, Any] | None:
        """What MAX makes of a step under way, if it is the one that is asked for and
        nothing but its tokens matters."""
        step = self._asked
        if step is None or step.ends is None:
            return None
        tokens = step.choose(self._awaited(step))
        noted = update_context_and_prepare_responses(tokens[:, None], inputs.flat_batch)
        for context in inputs.flat_batch:
            self._kv_manager.step(context)
        return noted

    def _expected(self, batches: Sequence[Sequence[Any]]) -> Step | None:
        """The step under way, if it computes a batch."""
        step = self._ahead
        if step is None or self._has_released:
            return None
        return step if step.progress == progress_of(batches) else None

    def _awaited(self, step: Step) -> Any:
        """The model's outputs of the step under way, which is asked for now."""
        self._ahead = None
        with self._lock:
            step.is_asked_for = True
            has_run = step.outputs.done()
        if has_run and step.outputs.exception() is None:
            self._begin(step.next(step.outputs.result(), self._page_size))
        return step.outputs.result()

    def _work(self) -> None:
        """The thread: runs steps until there are no more."""
        while (step := self._steps.get()) is not None:
            self._run(step)

    def _run(self, step: Step) -> None:
        """In the thread: a step, and those after it if they are asked for in time."""
        following: Step | None = step
        while following is not None:
            step, following = following, None
            inputs, _, batch = step.prepared
            try:
                outputs = self._launch(inputs, batch, step=0)
                with self._lock:
                    if not step.is_asked_for:
                        step.outputs.set_result(outputs)
                        return
                following = self._ahead = step.next(outputs, self._page_size)
            except BaseException as error:
                step.outputs.set_exception(error)
                return
            # The scheduler goes on from here, for whose work this thread would wait.
            step.outputs.set_result(outputs)

    def _foresee(
        self, inputs: TextGenerationInputs[Any], outputs: dict[Any, Any]
    ) -> None:
        """Begins the step that is expected to be asked for next."""
        before, self._last = self._last, [c.request_id for c in inputs.flat_batch]
        if (
            self._asked is None
            or self._ahead is not None
            or self._last != before
            or not go_on(inputs, outputs)
        ):
            return
        progress = progress_of(inputs.batches)
        prepared = self._asked.prepared
        if self._asked.is_decoding and keeps_blocks(progress, self._page_size):
            prepared[0].advance([c.tokens.active[0] for c in inputs.flat_batch])
        else:
            try:
                for context in inputs.flat_batch:
                    self._kv_manager.alloc(context)
                prepared = self._prepare_batch(inputs.batches)
            except Exception:
                # It happens again when the scheduler asks, who knows what to do.
                return
        self._begin(Step(progress, prepared, self._ends()))

    def _begin(self, step: Step | None) -> None:
        """Has the thread run a step that nobody has asked for."""
        self._ahead = step
        if step is not None:
            self._steps.put(step)

    def _forget(self) -> None:
        """Waits for the step that nobody has asked for, and drops it."""
        step, self._ahead = self._ahead, None
        if step is not None:
            wait([step.outputs])

    def _ends(self) -> Ends | None:
        assert self._inputs is not None
        return ends_of(self._inputs, self._sampling)
