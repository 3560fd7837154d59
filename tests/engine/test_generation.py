"""A generation yields chunks, ends, and cancels its request if it is abandoned."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from max.pipelines.context import GenerationStatus

from mllama.engine.generation import Generation, Step
from mllama.errors import EngineError, MllamaError
from tests.requests.scheduler_reports import MODEL_TOKENIZER, prepared, report

ACTIVE = GenerationStatus.ACTIVE
FULL = GenerationStatus.MAXIMUM_LENGTH


class Request:
    """A generation whose steps a test delivers."""

    def __init__(self, choices: int = 1, **sampling: Any) -> None:
        self.cancelled: list[int] = []
        self.generation = Generation(
            prepared(choices, **sampling),
            MODEL_TOKENIZER,
            started=10.0,
            cancel=self.cancel,
        )
        self.steps = self.generation.steps

    def cancel(self, choices: Sequence[int]) -> None:
        self.cancelled += choices

    def deliver(
        self, text: str, status: GenerationStatus, at: float, choice: int = 0
    ) -> None:
        output = report(text, status, cached=3)
        result = SimpleNamespace(result=output, error=None, is_done=output.is_done)
        self.steps.put(Step(choice, result, at))

    def fail(self, result: Any, at: float = 0.0) -> None:
        self.steps.put(Step(0, result, at))


def test_chunks_end_with_a_reason_and_add_up_to_the_output() -> None:
    request = Request()
    request.deliver("a", ACTIVE, 12.0)
    request.deliver("b", ACTIVE, 13.0)
    request.deliver("c", GenerationStatus.END_OF_SEQUENCE, 14.0)
    chunks = list(request.generation)
    assert [chunk.text for chunk in chunks] == ["a", "b", "c"]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    output = request.generation.output
    assert output.text == "abc"
    assert output.token_ids == [i for chunk in chunks for i in chunk.token_ids]
    assert (output.prompt_tokens, output.image_tokens) == (107, 100)
    assert output.completion_tokens == 3
    assert output.time_to_first_token_seconds == 2.0
    assert output.tokens_per_second == 1.0
    assert request.cancelled == []


def test_a_limit_and_an_end_have_different_reasons() -> None:
    request = Request()
    request.deliver("a", FULL, 12.0)
    output = request.generation.wait()
    assert output.finish_reason == "length"
    assert output.tokens_per_second is None


def test_a_stop_string_ends_the_request() -> None:
    request = Request(stop=".")
    request.deliver("yes", ACTIVE, 11.0)
    request.deliver(".no", ACTIVE, 12.0)
    output = request.generation.wait()
    assert (output.text, output.finish_reason) == ("yes", "stop")
    assert request.cancelled == [0]


def test_an_abandoned_generation_is_cancelled_once() -> None:
    request = Request()
    with request.generation as generation:
        request.deliver("a", ACTIVE, 11.0)
        assert next(generation).text == "a"
    generation.close()
    assert request.cancelled == [0]
    assert list(generation) == []
    with pytest.raises(RuntimeError, match="not complete"):
        _ = generation.output


def test_a_dropped_generation_is_cancelled() -> None:
    request = Request()
    request.generation = None  # type: ignore[assignment]
    assert request.cancelled == [0]


def test_a_rejected_request_raises_its_error() -> None:
    request = Request()
    request.fail(SimpleNamespace(result=None, error="no grammar"))
    with pytest.raises(MllamaError, match="no grammar"):
        request.generation.wait()


def test_a_dead_engine_raises_its_cause() -> None:
    request = Request()
    request.fail(OSError("no memory"))
    with pytest.raises(RuntimeError, match="engine stopped") as caught:
        request.generation.wait()
    assert isinstance(caught.value.__cause__, OSError)


def test_the_chunks_of_several_answers_say_whose_they_are() -> None:
    request = Request(2, stop=".")
    request.deliver("a", ACTIVE, 11.0)
    request.deliver("b", ACTIVE, 12.0)
    request.deliver("x", ACTIVE, 12.0, choice=1)
    request.deliver(".", ACTIVE, 13.0)
    request.deliver("late", ACTIVE, 14.0)
    request.deliver("y", FULL, 15.0, choice=1)
    chunks = [(chunk.choice, chunk.text) for chunk in request.generation]
    assert chunks == [(0, "a"), (0, "b"), (1, "x"), (0, ""), (1, "y")]
    output = request.generation.output
    assert [choice.text for choice in output.choices] == ["ab", "xy"]
    assert [choice.finish_reason for choice in output.choices] == ["stop", "length"]
    assert (output.text, output.stop) == ("ab", ".")
    assert output.choices[0].token_ids == output.token_ids
    assert output.completion_tokens == 5
    assert output.tokens_per_second == 1.0
    assert (output.prompt_tokens, output.cached_tokens) == (107, 3)
    assert output.prompt_token_ids == list(range(7))
    assert request.cancelled == [0]


def test_all_answers_of_an_abandoned_generation_are_cancelled() -> None:
    request = Request(3)
    request.deliver("a", ACTIVE, 11.0)
    next(request.generation)
    request.generation.close()
    assert request.cancelled == [0, 1, 2]


def test_an_error_of_one_answer_cancels_the_others() -> None:
    request = Request(2)
    request.deliver("a", ACTIVE, 11.0)
    request.deliver("", GenerationStatus.CANCELLED, 12.0, choice=1)
    with pytest.raises(EngineError, match="the model failed"):
        request.generation.wait()
    assert request.cancelled == [0, 1]
