"""Parameters out of range are refused; the others are passed to MAX."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.errors import MllamaError
from mllama.requests.sampling_params import Sampling


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": -2},
        {"top_k": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": 2.1},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MllamaError, match=next(iter(settings))):
        Sampling(**settings)


def test_the_default_is_greedy_until_the_context_is_full() -> None:
    params = Sampling().to_max(default_temperature=0.6, vocabulary=100)
    assert params.top_k == 1
    assert params.max_new_tokens is None


@pytest.mark.parametrize("asked", [{"temperature": 0.7}, {"top_p": 0.9}, {"seed": 0}])
def test_a_sampling_parameter_enables_sampling_from_all_tokens(
    asked: dict[str, Any],
) -> None:
    def top_k(**settings: Any) -> Any:
        params = Sampling(**settings).to_max(default_temperature=None, vocabulary=100)
        return params.top_k

    assert top_k(**asked) == -1
    assert top_k(**asked, top_k=1) == 1
    assert top_k(**asked, top_k=5) == 5


def test_a_temperature_of_zero_is_greedy() -> None:
    params = Sampling(temperature=0).to_max(default_temperature=None, vocabulary=100)
    assert params.top_k == 1


def test_the_checkpoints_temperature_is_the_default() -> None:
    own = Sampling(top_k=-1)
    assert own.to_max(default_temperature=0.6, vocabulary=9).temperature == 0.6
    assert own.to_max(default_temperature=None, vocabulary=9).temperature == 1.0
    given = Sampling(top_k=-1, temperature=0.3)
    assert given.to_max(default_temperature=0.6, vocabulary=9).temperature == 0.3


def test_a_top_k_beyond_the_vocabulary_samples_from_all_tokens() -> None:
    """MAX reserves memory for as many candidates as it is told."""
    params = Sampling(top_k=10**9).to_max(default_temperature=None, vocabulary=100)
    assert params.top_k == -1
