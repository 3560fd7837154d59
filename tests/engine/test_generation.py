"""A generation yields chunks, ends, and cancels its request if it is abandoned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from max.pipelines.context import GenerationStatus

from mllama.engine.generation import Generation, Step, as_stop_list
from mllama.errors import MllamaError
from mllama.requests.detokenizer import StreamingDetokenizer
from tests.requests.test_detokenizer import TOKENIZER

ACTIVE = GenerationStatus.ACTIVE


class Request:
    """A generation whose steps a test delivers."""

    def __init__(self, stop: list[str] | None = None) -> None:
        self.cancelled = 0
        self.generation = Generation(
            StreamingDetokenizer(TOKENIZER, stop or []),
            text_tokens=7,
            image_tokens=100,
            started=10.0,
            cancel=self.cancel,
        )
        self.steps = self.generation.steps

    def cancel(self) -> None:
        self.cancelled += 1

    def deliver(self, text: str, status: GenerationStatus, at: float) -> None:
        tokens = TOKENIZER.backend_tokenizer.encode(text).ids
        output = SimpleNamespace(tokens=tokens, final_status=status)
        self.fail(SimpleNamespace(result=output, error=None), at)

    def fail(self, result: Any, at: float = 0.0) -> None:
        self.steps.put(Step(result, at))


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
    assert request.cancelled == 0


def test_a_limit_and_an_end_have_different_reasons() -> None:
    request = Request()
    request.deliver("a", GenerationStatus.MAXIMUM_LENGTH, 12.0)
    output = request.generation.wait()
    assert output.finish_reason == "length"
    assert output.tokens_per_second is None


def test_a_stop_string_ends_the_request() -> None:
    request = Request(stop=["."])
    request.deliver("yes", ACTIVE, 11.0)
    request.deliver(".no", ACTIVE, 12.0)
    output = request.generation.wait()
    assert (output.text, output.finish_reason) == ("yes", "stop")
    assert request.cancelled == 1


def test_an_abandoned_generation_is_cancelled_once() -> None:
    request = Request()
    with request.generation as generation:
        request.deliver("a", ACTIVE, 11.0)
        assert next(generation).text == "a"
    generation.close()
    assert request.cancelled == 1
    assert list(generation) == []
    with pytest.raises(RuntimeError, match="not complete"):
        _ = generation.output


def test_a_dropped_generation_is_cancelled() -> None:
    request = Request()
    request.generation = None  # type: ignore[assignment]
    assert request.cancelled == 1


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


def test_stop_strings_must_be_strings() -> None:
    assert as_stop_list(None) == []
    assert as_stop_list("x") == ["x"]
    with pytest.raises(MllamaError, match="at least one character"):
        as_stop_list([""])
