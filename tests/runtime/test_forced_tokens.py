"""Forced tokens are appended to MAX's contexts, which compute them in one step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.pipelines.context import (
    EOSTracker,
    GenerationStatus,
    TextContext,
    TextGenerationOutput,
    TokenBuffer,
)

from mllama.max_model.sampling_context import PROMPT_LENGTH
from mllama.requests.answer_matcher import (
    AnswerMatcher,
)
from mllama.runtime import forced_tokens
from mllama.runtime.forced_tokens import append_forced_tokens, appending_forced_tokens

PROMPT = [11, 12, 13]
END = 7


class Scripted(AnswerMatcher):
    """A grammar with one answer, in which some tokens are free."""

    def __init__(self, answer: list[int | None]) -> None:
        self.answer = answer

    def forced_token(self, answer: Any) -> int | None:
        at = len(answer)
        assert all(
            expected in (None, token)
            for expected, token in zip(self.answer, answer.tolist(), strict=False)
        )
        return self.answer[at] if at < len(self.answer) else None


def context(answer: list[int | None] | None, *generated: int, **more: Any) -> Any:
    """Returns a request after a step that gave it its last token."""
    made = TextContext(
        max_length=more.pop("max_length", 100),
        tokens=TokenBuffer(np.array(PROMPT, np.int64)),
        eos_tracker=EOSTracker(eos_token_ids={END}),
        **more,
    )
    made.extra_model_args = {PROMPT_LENGTH: np.array([len(PROMPT)])}
    made._matcher = None if answer is None else Scripted(answer)
    for token in generated:
        made.advance_token_buffer(token)
    return made


def append(*contexts: Any) -> list[Any]:
    outputs = {each.request_id: each.to_generation_output() for each in contexts}
    append_forced_tokens(contexts, outputs)
    return [outputs[each.request_id] for each in contexts]


def test_the_next_step_computes_a_token_and_those_that_it_forces() -> None:
    request = context([None, 2, 3, None], 1)
    (output,) = append(request)
    assert output.tokens == [1, 2, 3]
    assert output.final_status is GenerationStatus.ACTIVE
    tokens = request.tokens
    assert tokens.generated.tolist() == [1, 2, 3]
    assert tokens.active.tolist() == [1, 2, 3]
    assert tokens.processed_length == len(PROMPT)
    # The next token goes on after them, and has a step of its own again.
    request.advance_token_buffer(5)
    assert tokens.active.tolist() == [5]
    assert tokens.processed_length == len(PROMPT) + 3
    assert request.to_generation_output().tokens == [5]


def test_only_the_last_token_and_its_forced_ones_are_computed_again() -> None:
    request = context([None, None, 3], 1, 2)
    (output,) = append(request)
    assert output.tokens == [1, 2, 3]
    assert request.tokens.active.tolist() == [2, 3]


@pytest.mark.parametrize("forced", [[END], [2, END], [2, END, 4]])
def test_an_end_is_the_last_token(forced: list[int]) -> None:
    request = context([None, *forced], 1)
    (output,) = append(request)
    assert output.tokens == [1, *forced[: forced.index(END) + 1]]
    assert output.final_status is GenerationStatus.END_OF_SEQUENCE
    # What is not computed is not cached when the request is released.
    assert request.tokens.processed_length == len(PROMPT)


@pytest.mark.parametrize("room", [2, 3])
def test_an_answer_is_not_longer_than_its_length(room: int) -> None:
    request = context([None, 2, 3, 4], 1, max_length=len(PROMPT) + room)
    (output,) = append(request)
    assert output.tokens == [1, 2, 3][:room]
    assert output.final_status is GenerationStatus.MAXIMUM_LENGTH


def test_a_step_computes_a_bounded_number() -> None:
    most = forced_tokens.MAX_FORCED_TOKENS
    request = context([None, *[2] * 80], 1, max_length=1000)
    (output,) = append(request)
    assert len(output.tokens) == 1 + most
    assert request.tokens.active_length == 1 + most


@pytest.mark.parametrize(
    "unconstrained",
    [
        context(None, 1),
        context([None, 2], 1, log_probabilities=1),
        context([None, None], 1),
    ],
)
def test_other_requests_keep_their_outputs(unconstrained: Any) -> None:
    request = context([None, 2, None], 1)
    constrained, other = append(request, unconstrained)
    assert constrained.tokens == [1, 2]
    assert other.tokens == [1]
    assert unconstrained.tokens.active_length == 1


def test_a_request_that_has_ended_or_has_no_token_stays_as_it_is() -> None:
    ended = context([None, 2], END)
    (output,) = append(ended)
    assert output.tokens == [END]
    chunked = context([1, 2])
    chunked.tokens.chunk(2)
    append_forced_tokens([chunked], {})
    assert chunked.tokens.active_length == 2
    failed = context([1, 2])
    cancelled = TextGenerationOutput(
        request_id=failed.request_id,
        tokens=[],
        final_status=GenerationStatus.CANCELLED,
    )
    append_forced_tokens([failed], {failed.request_id: cancelled})
    assert failed.tokens.generated_length == 0


def test_forced_tokens_are_a_part_of_the_prompt_after_preemption() -> None:
    request = context([None, 2, 3, None, 5], 1)
    append(request)
    request.reset()
    assert request.tokens.active.tolist() == [*PROMPT, 1, 2, 3]
    request.advance_token_buffer(4)
    (output,) = append(request)
    assert output.tokens == [4, 5]


def test_steps_that_do_not_run_ahead_append_too() -> None:
    request = context([None, 2], 1)
    inputs = SimpleNamespace(flat_batch=[request])
    output = {request.request_id: request.to_generation_output()}
    execute = appending_forced_tokens(lambda _: output)
    assert execute(inputs)[request.request_id].tokens == [1, 2]
