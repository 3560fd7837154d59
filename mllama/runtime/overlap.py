"""Overlapped steps: a batch's next step runs while the scheduler handles the last one.

Between two steps MAX's scheduler hands out tokens and forms the next batch, which is
nearly always the same batch again.  On a CPU a graph's run is synchronous, so that the
cores would be idle meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from max.pipelines.modeling.types import TextGenerationInputs

from mllama.max_compat.model import update_context_and_prepare_responses
from mllama.max_compat.pipeline import pipeline_model
from mllama.runtime.forced_tokens import append_forced_tokens
from mllama.runtime.guessing_steps import GuessingSteps
from mllama.runtime.next_step import (
    Continuation,
    Step,
    all_continue,
    continuations_of,
    fits_pages,
    progress_of,
)
from mllama.runtime.speculation.speculation import Speculation
from mllama.runtime.speculation.step_clock import StepClock


class OverlappedExecution:
    """Runs a pipeline's steps in a thread, also before they are requested.

    If a batch has the same requests as the one before, and all of them continue, the
    next batch is expected to be the same too.  The thread chooses the tokens by itself
    and starts that step before it hands over the outputs of the last one.  Where more
    than one token matters, such as tokens that a grammar forces, the step starts once
    MAX has recorded them.
    If the scheduler requests another batch, because a request was canceled or a new one
    is prefilled first, that batch waits for the thread, and the step's outputs are
    discarded.  Nothing else has to be undone: the keys and values of the last tokens
    were written, and will be written again.

    The thread is at most one step ahead of what was requested.

    Args:
        pipeline: MAX's ``TextGenerationPipeline`` of an ``MllamaModel`` on a CPU.
        launch: Runs the model on a prepared batch.
        speculation: Guesses tokens; None guesses none.
    """

    def __init__(
        self,
        pipeline: Any,
        launch: Callable[..., Any],
        speculation: Speculation | None = None,
    ) -> None:
        self._model = pipeline_model(pipeline)
        self._guessing_steps = (
            GuessingSteps(pipeline, speculation) if speculation else None
        )
        self._clock = StepClock(speculation.times) if speculation else None
        self._kv_manager = pipeline.kv_manager
        self._page_size = self._model.kv_params.page_size
        self._sampling = pipeline.pipeline_config.sampling
        self._vocab_size = pipeline.vocab_size
        self._inputs: TextGenerationInputs[Any] | None = None
        self._last_requests: list[Any] = []
        self._requested: Step | None = None
        self._ahead: Step | None = None
        self._has_released = False
        self._lock = Lock()
        self._steps: SimpleQueue[Step | None] = SimpleQueue()
        # Not an executor's thread: Python ends those before the model is closed.
        self._thread = Thread(target=self._work, name="mllama-steps", daemon=True)
        self._launch = launch
        self._execute = pipeline.execute
        self._prepare_batch = pipeline.prepare_batch
        self._release = pipeline.release
        self._shutdown = pipeline.kv_manager.shutdown
        self._thread.start()

    def execute(self, inputs: TextGenerationInputs[Any]) -> dict[Any, Any]:
        """Computes a batch, then starts its next step if the thread has not.

        Replaces the pipeline's ``execute``.
        """
        self._inputs = inputs
        self._requested = self._find_ahead(inputs.batches)
        try:
            outputs = self._compute(inputs)
            append_forced_tokens(inputs.flat_batch, outputs)
            self._start_next(inputs, outputs)
        except BaseException:
            self._last_requests = []
            self._discard()
            raise
        finally:
            self._inputs = self._requested = None  # They may reference pictures.
        return outputs

    def release(self, request_id: Any) -> None:
        """Releases a request while a step may be running.

        Replaces the pipeline's ``release``.
        """
        self._has_released = True
        if self._guessing_steps is not None:
            self._guessing_steps.release(request_id)
        self._release(request_id)

    def shutdown(self) -> None:
        """Waits for a running step, so that its memory can be freed.

        Replaces the KV cache's ``shutdown``.
        """
        self._steps.put(None)
        self._thread.join()
        self._shutdown()

    def wait_for_step(self) -> None:
        """Waits for a step that runs ahead, which stays valid.

        Nothing else may run a graph until it has ended.
        """
        if (step := self._ahead) is not None:
            wait([step.outputs])

    def prepare_batch(self, batches: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """Returns a batch's inputs: those of the step that is running, if it fits.

        Replaces the pipeline's ``prepare_batch``.
        """
        if self._requested is None:
            self._drop_ahead()
            progress = progress_of(batches)
            prepared = self._prepare_batch(batches)
            is_same = [name for name, _, _ in progress] == self._last_requests
            continuations = self._continuations() if is_same else None
            self._requested = Step(
                progress,
                prepared,
                continuations,
                self._vocab_size,
                goes_on=self._goes_on,
            )
        return self._requested.prepared

    def launch(self, *_: Any, **__: Any) -> Any:
        """Returns the outputs of the step whose inputs were prepared.

        Replaces the pipeline's forward pass.
        """
        assert self._requested is not None
        return self._outputs_of(self._requested)

    def _outputs_of(self, step: Step) -> Any:
        """Returns the model's outputs of a step that is requested."""
        if step is self._ahead:
            return self._collect(step)
        step.is_requested = True
        self._steps.put(step)
        return step.outputs.result()

    def _compute(self, inputs: TextGenerationInputs[Any]) -> dict[Any, Any]:
        """Returns MAX's outputs of a batch."""
        if self._requested is None and self._guessing_steps is not None:
            self._drop_ahead()
            self._requested, _ = self._guessing_steps.next(inputs)
        step = self._requested
        if step is not None and step.guesses is not None:
            assert self._guessing_steps is not None
            return self._guessing_steps.verify(step, self._outputs_of(step), inputs)
        outputs = self._record_tokens(inputs)
        return self._execute(inputs) if outputs is None else outputs

    @property
    def _goes_on(self) -> bool:
        """Returns True if no guess is expected for the step after the next."""
        return self._guessing_steps is None or not self._guessing_steps.are_expected

    def _record_tokens(
        self, inputs: TextGenerationInputs[Any]
    ) -> dict[Any, Any] | None:
        """Returns MAX's outputs of the step that is running ahead.

        Returns:
            None if no step runs ahead, or if MAX needs more than its tokens.
        """
        step = self._requested
        if step is None or step.continuations is None:
            return None
        tokens = step.choose(self._collect(step))
        outputs = update_context_and_prepare_responses(
            tokens[:, None], inputs.flat_batch
        )
        for context in inputs.flat_batch:
            self._kv_manager.step(context)
        return outputs

    def _find_ahead(self, batches: Sequence[Sequence[Any]]) -> Step | None:
        """Returns the step that runs ahead, if it computes a batch."""
        step = self._ahead
        if step is None or self._has_released:
            return None
        return step if step.progress == progress_of(batches) else None

    def _collect(self, step: Step) -> Any:
        """Returns the model's outputs of the step that runs ahead."""
        self._ahead = None
        with self._lock:
            step.is_requested = True
            has_run = step.outputs.done()
        if has_run and step.outputs.exception() is None:
            self._start(step.next(step.outputs.result(), self._page_size))
        return step.outputs.result()

    def _work(self) -> None:
        """Runs steps until there are no more; the thread's target."""
        while (step := self._steps.get()) is not None:
            self._run(step)

    def _run(self, step: Step) -> None:
        """Runs a step, and the next ones as long as they are requested in time."""
        following: Step | None = step
        while following is not None:
            step, following = following, None
            inputs, _, batch = step.prepared
            try:
                if self._clock is not None:
                    self._clock.start(step)
                outputs = self._launch(inputs, batch, step=0)
                with self._lock:
                    if not step.is_requested:
                        step.outputs.set_result(outputs)
                        return
                following = self._ahead = step.next(outputs, self._page_size)
            except BaseException as error:
                step.outputs.set_exception(error)
                return
            # The scheduler continues here, so that it is set after the next step is
            # known.
            step.outputs.set_result(outputs)

    def _start_next(
        self, inputs: TextGenerationInputs[Any], outputs: dict[Any, Any]
    ) -> None:
        """Starts the step that is expected to be requested next."""
        before = self._last_requests
        contexts = inputs.flat_batch
        self._last_requests = [context.request_id for context in contexts]
        if (
            self._requested is None
            or self._last_requests != before
            or not all_continue(inputs, outputs)
        ):
            return
        if self._ahead is not None:
            if self._guessing_steps is not None:
                self._guessing_steps.look_on(contexts)
                self._ahead.goes_on = self._goes_on
            return
        try:
            self._start(self._expected(inputs, self._requested))
        except Exception:
            # It is raised again in the scheduler's own request, and handled there.
            return

    def _expected(self, inputs: TextGenerationInputs[Any], last: Step) -> Step:
        """Returns the step of a batch after one that has been recorded."""
        contexts = inputs.flat_batch
        progress = progress_of(inputs.batches)
        has_pages = fits_pages(progress, self._page_size)
        if not has_pages:
            for context in contexts:
                self._kv_manager.alloc(context)
        guessing_seconds = 0.0
        if self._guessing_steps is not None:
            step, guessing_seconds = self._guessing_steps.next(inputs)
            if step is not None:
                step.follows = True
                return step
        prepared = last.prepared
        if last.is_decode and has_pages:
            prepared[0].advance([context.tokens.active[0] for context in contexts])
        else:
            prepared = self._prepare_batch(inputs.batches)
        return Step(
            progress,
            prepared,
            self._continuations(),
            self._vocab_size,
            guessing_seconds=guessing_seconds,
            goes_on=self._goes_on,
            follows=True,
        )

    def _start(self, step: Step | None) -> None:
        """Hands the thread a step that was not requested."""
        self._ahead = step
        if step is not None:
            self._steps.put(step)

    def _drop_ahead(self) -> None:
        """Makes room for a step that was not expected."""
        self._discard()
        self._has_released = False

    def _discard(self) -> None:
        """Waits for the step that runs ahead, and drops its outputs."""
        step, self._ahead = self._ahead, None
        if step is not None:
            wait([step.outputs])

    def _continuations(self) -> list[Continuation] | None:
        assert self._inputs is not None
        return continuations_of(self._inputs, self._sampling)
