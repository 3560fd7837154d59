"""Log probabilities in MAX's form, for the requests that ask for them."""

from __future__ import annotations

import numpy as np
import pytest

from mllama.max_model.log_probabilities import host_log_probabilities

LOGITS = np.random.default_rng(5).normal(0, 2, (6, 9)).astype(np.float32)
LOG_SOFTMAX = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))


def test_each_request_gets_what_it_asks_for() -> None:
    found = host_log_probabilities(
        LOGITS[:3],
        np.arange(4),
        tokens=np.array([4, 4, 4]),
        token_offsets=np.arange(4),
        next_tokens=np.array([2, 8, 0]),
        top_n=[2, 0, 9],
        echo=[False] * 3,
    )
    first, second, third = found
    assert second is None
    assert first is not None
    assert third is not None
    assert first.sampled_token_ids == [2]
    assert first.token_log_probabilities == pytest.approx([LOG_SOFTMAX[0, 2]], abs=1e-6)
    assert first.top_log_probabilities[0][2] == first.token_log_probabilities[0]
    assert set(first.top_log_probabilities[0]) == {*LOGITS[0].argsort()[-2:], 2}
    (top,) = third.top_log_probabilities
    assert list(top) == (-LOGITS[2]).argsort().tolist()
    assert list(top.values()) == pytest.approx(sorted(LOG_SOFTMAX[2])[::-1], abs=1e-6)


def test_a_prompts_tokens_have_the_logits_of_the_token_before() -> None:
    """A request of four tokens that asks for them, and one of two that doesn't."""
    tokens = np.array([3, 1, 7, 5, 6, 2])
    echoed, plain = host_log_probabilities(
        LOGITS,
        np.array([0, 4, 6]),
        tokens=tokens,
        token_offsets=np.array([0, 4, 6], np.uint32),
        next_tokens=np.array([8, 0]),
        top_n=[1, 1],
        echo=[True, False],
    )
    assert echoed is not None
    assert plain is not None
    assert echoed.sampled_token_ids == [1, 7, 5, 8]
    assert echoed.token_log_probabilities == pytest.approx(
        LOG_SOFTMAX[[0, 1, 2, 3], [1, 7, 5, 8]].tolist(), abs=1e-6
    )
    assert plain.sampled_token_ids == [0]
    assert plain.token_log_probabilities == pytest.approx([LOG_SOFTMAX[5, 0]], abs=1e-6)
