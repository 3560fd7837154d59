"""The answers that the scheduler works on, and the queues to and from it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mllama.engine.generation import Step, now


class StepQueue(Protocol):
    """Takes the scheduler's reports about a request."""

    def put(self, step: Step) -> None:
        """Adds a report, from the scheduler's thread."""
        ...


class RunningAnswers:
    """Hands answers to the scheduler, and its reports to whoever waits for them.

    A request's first answer is submitted alone.  Once it has a token, the caches have
    the prompt and its images, and the others are submitted.

    Attributes:
        incoming: The scheduler takes contexts from this queue.
        cancelled: The scheduler takes lists of ids to cancel from this one.
        wake: Set when the scheduler has something to do.
    """

    def __init__(self) -> None:
        self.incoming: queue.Queue[Any] = queue.Queue()
        self.cancelled: queue.Queue[list[Any]] = queue.Queue()
        self.wake = threading.Event()
        # Not the generations: one that its user drops must be collected and cancelled.
        self._answers: dict[Any, _Answer] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    def submit(self, contexts: Sequence[Any], steps: StepQueue) -> None:
        """Submits a request.

        Args:
            contexts: MAX's context of each of its answers.
            steps: Receives the scheduler's reports.
        """
        first, *others = contexts
        with self._lock:
            self._answers[first.request_id] = _Answer(steps, 0, others)
        self.incoming.put(first)
        self.wake.set()

    def _submit_others(self, answer: _Answer) -> None:
        with self._lock:
            others = answer.take_others()
            for choice, context in enumerate(others, 1):
                self._answers[context.request_id] = _Answer(answer.steps, choice, [])
        for context in others:
            self.incoming.put(context)

    def cancel(self, request_ids: Sequence[Any]) -> None:
        """Cancels answers, unless they have ended."""
        with self._lock:
            cancelled = {
                request_id: self._answers.pop(request_id)
                for request_id in request_ids
                if request_id in self._answers
            }
        for answer in cancelled.values():
            # Another thread may be waiting for the next step.
            answer.steps.put(Step(answer.choice, None, now()))
        if cancelled:
            self.cancelled.put(list(cancelled))
            self.wake.set()

    def put_nowait(self, results: dict[Any, Any]) -> None:
        """Delivers the scheduler's reports about a step, by the ids of answers.

        The scheduler calls it, as if this were its queue of results.
        """
        at = now()
        for request_id, result in results.items():
            with self._lock:
                answer = self._answers.get(request_id)
                if result.is_done:
                    self._answers.pop(request_id, None)
            if answer is None:
                continue
            answer.steps.put(Step(answer.choice, result, at))
            if answer.others and result.result is not None:
                self._submit_others(answer)

    def end_all(self, reason: BaseException) -> None:
        """Ends all answers with an error."""
        with self._lock:
            ended, self._answers = self._answers, {}
        for answer in ended.values():
            answer.steps.put(Step(answer.choice, reason, now()))


@dataclass
class _Answer:
    """An answer that the scheduler works on.

    Attributes:
        steps: Receives the scheduler's reports.
        choice: The answer among those of its request.
        others: Contexts of the request's other answers, which are not yet submitted.
    """

    steps: StepQueue
    choice: int
    others: list[Any]

    def take_others(self) -> list[Any]:
        """Returns the other answers' contexts, and forgets them."""
        others, self.others = self.others, []
        return others
