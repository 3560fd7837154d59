"""Sampled answers depend on the request alone, however MAX schedules it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import ask
from .harness import WHOLE, Request, Scheduled

LONG = 40
"""Length of answers."""

SETTINGS: list[dict[str, Any]] = [
    {"top_k": -1, "temperature": 1.5},
    {"top_k": 20, "top_p": 0.95, "min_p": 0.01, "temperature": 2.0},
    {"frequency_penalty": 2.0, "presence_penalty": 1.0},
    {"top_k": -1, "repetition_penalty": 1.8, "temperature": 1.2, "bias": {9: 4.0}},
    {"top_k": -1, "temperature": 1.5, "min_new_tokens": 30, "ignore_eos": False},
]


def answer(
    scheduled: Scheduled, messages: Any, seed: int, settings: dict[str, Any]
) -> list[int]:
    scheduled.forget()
    request = scheduled.submit(messages, LONG, seed=seed, **settings)
    scheduled.run()
    return request.token_ids


@pytest.fixture(scope="module")
def expected(roomy: Scheduled) -> list[list[int]]:
    """The answer with each of the settings, where no step runs ahead."""
    return [
        answer(roomy, ask(f"Number {number}"), number, settings)
        for number, settings in enumerate(SETTINGS)
    ]


def submit_all(scheduled: Scheduled) -> list[Request]:
    return [
        scheduled.submit(ask(f"Number {number}"), LONG, seed=number, **settings)
        for number, settings in enumerate(SETTINGS)
    ]


def test_sampled_answers_differ_from_greedy_ones_and_by_seed(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    for number, sampled in enumerate(expected):
        greedy = answer(tight, ask(f"Number {number}"), number, {})
        assert sampled != greedy[: len(sampled)]
    others = [answer(tight, ask("Number 0"), seed, SETTINGS[0]) for seed in (7, 8, 9)]
    assert len({tuple(tokens) for tokens in [*others, expected[0]]}) == 4


def test_steps_that_run_ahead_choose_the_same_tokens(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    for number, settings in enumerate(SETTINGS):
        found = answer(tight, ask(f"Number {number}"), number, settings)
        assert found == expected[number]


def test_sampled_steps_are_predicted(
    tight: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tight.overlap is not None
    record, recorded = tight.overlap._record_tokens, 0

    def counting(inputs: Any) -> Any:
        nonlocal recorded
        outputs = record(inputs)
        recorded += outputs is not None
        return outputs

    monkeypatch.setattr(tight.overlap, "_record_tokens", counting)
    answer(tight, ask("Number 0"), 0, SETTINGS[0])
    assert recorded > LONG - 5


def test_a_batch_changes_no_answer(tight: Scheduled, expected: list[list[int]]) -> None:
    tight.forget()
    requests = submit_all(tight)
    tight.run()
    assert [request.token_ids for request in requests] == expected


def test_requests_that_arrive_and_leave_change_no_answer(
    tight: Scheduled, expected: list[list[int]], pictures: list[Image.Image]
) -> None:
    tight.forget()
    requests = []
    for number, settings in enumerate(SETTINGS):
        tight.submit(ask(pictures[number], "What is it?"), 3, top_k=-1)
        requests.append(
            tight.submit(ask(f"Number {number}"), LONG, seed=number, **settings)
        )
        for _ in range(number):
            tight.step()
    tight.run()
    assert [request.token_ids for request in requests] == expected


@pytest.mark.parametrize("size", [1, 5])
def test_chunks_of_a_prompt_change_no_answer(
    tight: Scheduled, expected: list[list[int]], size: int
) -> None:
    tight.forget()
    tight.chunk_size(size)
    try:
        requests = submit_all(tight)
        tight.run()
    finally:
        tight.chunk_size(WHOLE)
    assert [request.token_ids for request in requests] == expected


@pytest.mark.parametrize("stage", [2, 3, 11, 29])
def test_a_preemption_changes_no_answer(
    tight: Scheduled, expected: list[list[int]], stage: int
) -> None:
    """Penalties and ``min_tokens`` still count the answer from its first token."""
    tight.forget()
    requests = submit_all(tight)
    for _ in range(stage):
        tight.step()
    for request in requests[1:]:
        tight.preempt(request)
    tight.run()
    assert [request.token_ids for request in requests] == expected


def test_an_answer_doesnt_end_before_min_tokens(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    free = {**SETTINGS[-1], "min_new_tokens": 0}
    ends = [len(answer(tight, ask("Number 4"), seed, free)) for seed in range(8)]
    assert min(ends) < 20
    for seed in range(8):
        assert len(answer(tight, ask("Number 4"), seed, SETTINGS[-1])) >= 30


def test_a_bias_forces_and_bans_tokens(tight: Scheduled) -> None:
    forced = answer(tight, ask("Hello"), 1, {"top_k": -1, "bias": {17: 100.0}})
    assert forced == [17] * LONG
    greedy = answer(tight, ask("Hello"), 1, {})
    banned = answer(tight, ask("Hello"), 1, {"bias": {greedy[0]: -100.0}})
    assert greedy[0] not in banned


def test_log_probabilities_of_a_step_are_those_of_the_model(
    tight: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a request that asks for all, one that asks for 20, and one for none."""
    tight.forget()
    model = tight.pipeline._pipeline_model
    execute, rows = model.execute, []

    def recording(model_inputs: Any) -> Any:
        outputs = execute(model_inputs=model_inputs)
        rows.append(outputs.next_token_logits.to_numpy().astype(np.float64))
        return outputs

    monkeypatch.setattr(model, "execute", recording)
    few = tight.submit(ask("Hello"), 5, logprobs=20, top_k=-1, temperature=1.5)
    every = tight.submit(ask("Good day"), 5, logprobs=10**6, frequency_penalty=1.0)
    none = tight.submit(ask("Hey"), 5)
    tight.run()
    assert none.log_probabilities == []
    assert len(rows) == 5
    for step, logits in enumerate(rows):
        own = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for place, (request, count) in enumerate([(few, 20), (every, logits.shape[1])]):
            found = request.log_probabilities[step]
            token = request.token_ids[step]
            assert found.sampled_token_ids == [token]
            (value,) = found.token_log_probabilities
            assert value == pytest.approx(own[place, token], abs=1e-5)
            (top,) = found.top_log_probabilities
            likeliest = list(top.values())[:count]
            assert likeliest == pytest.approx(
                np.sort(own[place])[::-1][:count], abs=1e-5
            )
            assert len(top) == count + (token not in list(top)[:count])
            assert top[token] == value


def test_a_grammars_mask_allows_tokens_of_its_request_alone(
    tight: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In MAX's form, with MAX's grammar replaced by a fixed set."""
    vocabulary = tight.pipeline.vocab_size
    allowed = {11, 12, 45, 46}

    def bitmask(batch: list[Any]) -> Any:
        masks = np.full((len(batch), -(-vocabulary // 32)), -1, np.int32)
        for place, context in enumerate(batch):
            if context.json_schema is not None:
                masks[place] = 0
                for token in allowed:
                    masks[place, token // 32] |= np.int32(1 << token % 32)
        return masks

    monkeypatch.setattr(tight.pipeline, "initialize_bitmask", bitmask)
    monkeypatch.setattr(tight.pipeline, "update_for_structured_output", lambda *_: None)
    tight.forget()
    sampled = {"top_k": -1, "temperature": 2.0, "seed": 3}
    constrained = tight.submit(ask("Hello"), LONG, **sampled)
    constrained.context.json_schema = "{}"
    free = tight.submit(ask("Hello"), LONG, **sampled)
    tight.run()
    assert set(constrained.token_ids) == allowed
    assert free.token_ids != constrained.token_ids
    assert not set(free.token_ids) <= allowed
