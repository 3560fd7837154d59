"""Log probabilities are those of the model's own distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mllama.sampling.log_probabilities import (
    ALL,
    token_log_probabilities,
    token_log_probability,
)

LOGITS = np.array([1.0, 3.0, -2.0, 3.0, 0.5], np.float32)
EXPECTED = [
    float(logit) - math.log(sum(math.exp(float(each)) for each in LOGITS))
    for logit in LOGITS
]


@pytest.mark.parametrize(
    ("token", "top_n", "order"),
    [
        (1, 1, [1]),
        (1, 2, [1, 3]),
        (3, 1, [1, 3]),
        (2, 3, [1, 3, 0, 2]),
        (4, 5, [1, 3, 0, 4, 2]),
        (4, 99, [1, 3, 0, 4, 2]),
        (0, 0, [0]),
    ],
)
def test_the_likeliest_come_first_and_the_token_itself_last_if_it_isnt_among_them(
    token: int, top_n: int, order: list[int]
) -> None:
    found = token_log_probability(LOGITS, token, top_n)
    assert found.token == token
    assert list(found.top) == order
    for each, value in found.top.items():
        assert value == pytest.approx(EXPECTED[each], abs=1e-6)
    assert found.log_probability == found.top[token]


def test_all_of_a_large_vocabulary_add_up_to_one() -> None:
    logits = np.random.default_rng(1).normal(20, 5, 128_256).astype(np.float32)
    found = token_log_probability(logits, 7, logits.size)
    assert len(found.top) == logits.size
    assert sum(map(math.exp, found.top.values())) == pytest.approx(1, abs=1e-6)
    values = list(found.top.values())
    assert values == sorted(values, reverse=True)


def test_those_of_several_tokens_equal_those_of_each() -> None:
    """At the published vocabulary, where they take several blocks."""
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 9, (11, 128_256)).astype(np.float32)
    tokens = generator.integers(0, 128_256, 11)
    found = token_log_probabilities(logits, tokens, 5)
    assert [each.token for each in found] == tokens.tolist()
    for row, each in zip(logits, found, strict=True):
        assert each == token_log_probability(row, each.token, 5)
        wide = row.astype(np.float64)
        total = np.log(np.exp(wide - wide.max()).sum()) + wide.max()
        for token, value in each.top.items():
            assert value == pytest.approx(wide[token] - total, abs=1e-6)


def test_all_is_the_whole_vocabulary() -> None:
    found = token_log_probability(LOGITS, 4, ALL)
    assert list(found.top) == [1, 3, 0, 4, 2]
    assert token_log_probabilities(LOGITS[None][:0], [], 3) == []
