"""Log probabilities in MAX's form, for the requests that ask for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from max.pipelines.context import TextContext, TokenBuffer
from max.pipelines.context.exceptions import InputError

from mllama.max_model.log_probabilities import (
    PromptLogProbabilities,
    logit_indices,
    prompt_logits,
    prompt_logits_per_step,
    step_log_probabilities,
)
from mllama.max_model.sampling_context import (
    MAX_PROMPT_LOG_PROBABILITIES,
    PROMPT_LENGTH,
    LogProbabilityCounts,
    log_probability_counts,
    max_logprobs,
    pending_prompt_count,
    set_log_probabilities,
)
from mllama.sampling.log_probabilities import ALL

VOCABULARY = 9
IMAGE = VOCABULARY
"""A placeholder, which has no logits."""

LOGITS = np.random.default_rng(5).normal(0, 2, (6, VOCABULARY)).astype(np.float32)
LOG_SOFTMAX = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))


class Context(TextContext):
    """A request without images that has this package's fields."""

    extra_model_args: dict[str, Any]


def context(
    tokens: list[int], counts: LogProbabilityCounts | None = None, **fields: Any
) -> Context:
    """Returns a request whose prompt is prefilled in the next step."""
    made = Context(
        max_length=100, tokens=TokenBuffer(np.array(tokens, np.int64)), **fields
    )
    made.extra_model_args = {PROMPT_LENGTH: np.array([len(tokens)])}
    if counts is not None:
        made.log_probabilities = max_logprobs(counts)
        set_log_probabilities(made, counts, VOCABULARY)
    return made


def offsets(batch: list[Context]) -> Any:
    lengths = [each.tokens.active_length for each in batch]
    return np.cumsum([0, *lengths], dtype=np.uint32)


def step(
    batch: list[Context], next_tokens: list[int], prompts: PromptLogProbabilities
) -> list[Any]:
    """Computes a step whose token ``i`` has the logits ``LOGITS[i]``."""
    found = prompt_logits(batch, offsets(batch), VOCABULARY)
    rows = LOGITS[logit_indices(offsets(batch), found)]
    prompts.record(found, rows[len(batch) :])
    return step_log_probabilities(
        batch, rows[: len(batch)], np.array(next_tokens), prompts
    )


def test_each_request_gets_what_it_asks_for() -> None:
    batch = [
        context([4], LogProbabilityCounts(answer=2)),
        context([4]),
        context([4], LogProbabilityCounts(answer=ALL)),
        context([4], LogProbabilityCounts(answer=0)),
        context([4], log_probabilities=2),
    ]
    first, second, third, fourth, fifth = step(
        batch, [2, 8, 0, 7, 2], PromptLogProbabilities(VOCABULARY)
    )
    assert second is None
    assert first.sampled_token_ids == [2]
    assert first.token_log_probabilities == pytest.approx([LOG_SOFTMAX[0, 2]], abs=1e-6)
    assert first.top_log_probabilities[0][2] == first.token_log_probabilities[0]
    assert set(first.top_log_probabilities[0]) == {*LOGITS[0].argsort()[-2:], 2}
    (top,) = third.top_log_probabilities
    assert list(top) == (-LOGITS[2]).argsort().tolist()
    assert list(top.values()) == pytest.approx(sorted(LOG_SOFTMAX[2])[::-1], abs=1e-6)
    assert fourth.top_log_probabilities == [{7: fourth.token_log_probabilities[0]}]
    assert set(fifth.top_log_probabilities[0]) == {*LOGITS[4].argsort()[-2:], 2}


def test_a_prompts_tokens_have_the_logits_of_the_token_before() -> None:
    """Requests of four tokens, one of which has MAX's own ``echo``, and of two."""
    counts = LogProbabilityCounts(prompt=1)
    for asking in (
        context([3, 1, 7, 5], log_probabilities=1, log_probabilities_echo=True),
        context([3, 1, 7, 5], LogProbabilityCounts(answer=1, prompt=1)),
        context([3, 1, 7, 5], counts),
    ):
        batch = [asking, context([6, 2])]
        prompts = PromptLogProbabilities(VOCABULARY)
        found, none = step(batch, [8, 0], prompts)
        assert none is None
        tokens = [1, 7, 5, 8]
        if log_probability_counts(asking) == counts:
            tokens.pop()
        assert found.sampled_token_ids == tokens
        assert found.token_log_probabilities == pytest.approx(
            LOG_SOFTMAX[np.arange(len(tokens)), tokens].tolist(), abs=1e-6
        )


def test_an_image_placeholder_has_none() -> None:
    asking = context([3, IMAGE, IMAGE, 5], LogProbabilityCounts(prompt=0))
    (found,) = step([asking], [8], PromptLogProbabilities(VOCABULARY))
    assert found.sampled_token_ids == [5]
    assert found.token_log_probabilities == pytest.approx([LOG_SOFTMAX[2, 5]], abs=1e-6)


def test_a_prompts_come_once_after_its_last_chunk() -> None:
    counts = LogProbabilityCounts(answer=1, prompt=1)
    request = context([3, 1, 7, 5], counts)
    prompts = PromptLogProbabilities(VOCABULARY)
    request.tokens.chunk(3)
    assert step([request], [8], prompts) == [None]
    request.update(8)
    (found,) = step([request], [8], prompts)
    assert found.sampled_token_ids == [1, 7, 5, 8]
    # The last chunk's only token is the first of its step.
    assert found.token_log_probabilities == pytest.approx(
        LOG_SOFTMAX[[0, 1, 2, 0], [1, 7, 5, 8]].tolist(), abs=1e-6
    )
    request.update(8)
    assert pending_prompt_count(request) is None
    (found,) = step([request], [2], prompts)
    assert found.sampled_token_ids == [2]
    request.update(2)
    request.reset()  # Preempted: the answer so far is a part of the prompt.
    assert pending_prompt_count(request) is None
    (found,) = step([request], [2], prompts)
    assert found.sampled_token_ids == [2]


def test_a_token_that_was_not_computed_is_never_left_out() -> None:
    request = context([3, 1, 7, 5], LogProbabilityCounts(prompt=1))
    request.tokens.skip_processing(1)
    with pytest.raises(RuntimeError, match="2 of 3 log probabilities"):
        step([request], [8], PromptLogProbabilities(VOCABULARY))


def test_nothing_stays_of_a_released_request() -> None:
    request = context([3, 1], LogProbabilityCounts(prompt=1))
    prompts = PromptLogProbabilities(VOCABULARY)
    step([request], [8], prompts)
    prompts.release(request.request_id)
    prompts.release(request.request_id)
    assert not prompts._found


def test_a_step_without_such_requests_returns_a_row_for_each_request() -> None:
    batch = [context([3, 1, 7]), context([5])]
    assert logit_indices(offsets(batch), []).tolist() == [2, 3]


def test_the_logits_of_a_step_take_128_mib_at_most() -> None:
    assert prompt_logits_per_step(128_256) * 128_256 * 4 <= 128 << 20
    assert prompt_logits_per_step(128_256) > 200
    assert prompt_logits_per_step(10**9) == 1


def test_too_many_for_a_prompt_are_refused() -> None:
    prompt = [1] * 50
    most = MAX_PROMPT_LOG_PROBABILITIES // len(prompt)
    context(prompt, LogProbabilityCounts(prompt=most))
    refusal = f"{most + 1} log .* 50 tokens .* more than 262144; ask for fewer"
    with pytest.raises(InputError, match=refusal):
        context(prompt, LogProbabilityCounts(prompt=most + 1))
    everything = context(prompt, log_probabilities=1)
    with pytest.raises(InputError, match="128256 log probabilities for each"):
        set_log_probabilities(everything, LogProbabilityCounts(prompt=ALL), 128_256)


def test_maxs_request_must_ask_as_well() -> None:
    with pytest.raises(ValueError, match="contradict"):
        set_log_probabilities(context([1]), LogProbabilityCounts(answer=0), VOCABULARY)
