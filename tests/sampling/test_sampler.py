"""Tokens are chosen with the probabilities that the settings define."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama.sampling.logits import processed_logits
from mllama.sampling.sampler import (
    choose_token,
    choose_tokens,
    distribution,
    index_at,
    largest,
    nucleus,
    uniform_number,
)
from mllama.sampling.state import GREEDY, SamplingSettings, SamplingState

from .definition import probabilities

DRAWS = 2500
LLAMA = 128_256
"""Tokens of the published models."""

LOGITS = np.array(
    [2.0, -1.0, 3.5, 3.5, 0.0, 1.2, -4.0, 2.9, 0.7, 3.1, -0.3, 1.9], np.float32
)
PROMPT, ANSWER = [3, 5, 5, 99], [2, 7, 7, 7]
ALLOWED = [True, True, False, True, True, True, True, True, True, False, True, True]

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 5},
    {"top_k": 3, "temperature": 1.7},
    {"top_p": 0.8},
    {"top_p": 0.35},
    {"min_p": 0.2},
    {"top_k": 6, "top_p": 0.9, "min_p": 0.15, "temperature": 1.3},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -0.5, "presence_penalty": 1.1},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8, "presence_penalty": -0.6, "top_p": 0.9},
    {"logit_bias": {6: 7.0, 2: -100.0}},
    {"logit_bias": {99: 5.0}, "min_tokens": 5, "end_tokens": frozenset({9, 99})},
    {"min_tokens": 4, "end_tokens": frozenset({9})},
    {
        "temperature": 0.9,
        "top_k": 8,
        "top_p": 0.85,
        "min_p": 0.05,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {1: 3.0},
        "min_tokens": 9,
        "end_tokens": frozenset({2, 3}),
    },
]


def packed(allowed: Any) -> np.ndarray:
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view("<i4")


def state(
    *, seed: int = 0, masked: bool = False, position: int = 8, **settings: Any
) -> SamplingState:
    return SamplingState(
        settings=SamplingSettings(seed=seed, **settings),
        prompt_length=len(PROMPT),
        position=position,
        tokens=np.array(PROMPT + ANSWER),
        bitmask=packed(ALLOWED) if masked else None,
    )


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_come_with_the_probabilities_of_the_definition(
    settings: dict[str, Any], masked: bool
) -> None:
    """Pearson's chi-square; the limit is passed by chance once in a million."""
    expected = np.array(
        probabilities(
            LOGITS.tolist(),
            SamplingSettings(**settings),
            prompt=PROMPT,
            answer=ANSWER,
            allowed=ALLOWED if masked else None,
        )
    )
    drawn = Counter(
        choose_token(LOGITS, state(seed=seed, masked=masked, **settings))
        for seed in range(DRAWS)
    )
    assert all(expected[token] > 0 for token in drawn)
    cells = np.flatnonzero(expected)
    observed = np.array([drawn[token] for token in cells])
    frequencies = expected[cells] * DRAWS
    statistic = ((observed - frequencies) ** 2 / frequencies).sum()
    freedom = max(len(cells) - 1, 1)
    # Wilson and Hilferty's approximation of the distribution's quantile.
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + 4.75 * spread**0.5) ** 3


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_large_vocabulary_has_the_distribution_of_the_definition(
    settings: dict[str, Any],
) -> None:
    """Where sums are taken in blocks and the nucleus exceeds the first guess."""
    logits = np.random.default_rng(1).normal(0, 1, 5000).astype(np.float32)
    settings = {**settings, "top_k": 100 * settings.get("top_k", -1)}
    chosen = SamplingSettings(**settings)
    expected = np.array(probabilities(logits.tolist(), chosen))
    first = SamplingState(settings=chosen, tokens=np.zeros(0, np.int64))
    ids, weights = distribution(processed_logits(logits, first), chosen)
    found = np.zeros(5000)
    found[slice(None) if ids is None else ids] = weights
    np.testing.assert_allclose(found / found.sum(), expected, rtol=2e-5, atol=1e-9)


def test_random_numbers_are_uniform_over_seeds_and_over_positions() -> None:
    seeds = [uniform_number(seed, 5) for seed in range(DRAWS)]
    positions = [uniform_number(5, position) for position in range(DRAWS)]
    for numbers in (seeds, positions):
        counts, _ = np.histogram(numbers, 20, (0, 1))
        expected = DRAWS / 20
        assert ((counts - expected) ** 2 / expected).sum() < 56  # once in 50,000
    assert abs(np.corrcoef(positions[1:], positions[:-1])[0, 1]) < 0.06


def test_random_numbers_are_the_same_on_every_machine() -> None:
    assert uniform_number(0, 0) == 0.011546754286331562
    assert uniform_number(2**63 - 1, 8191) == 0.21199435916307485


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_request_gets_the_same_token_alone_and_at_any_place_in_a_batch(
    settings: dict[str, Any],
) -> None:
    others = [GREEDY, state(seed=3), state(seed=4, top_k=2), state(seed=5, top_p=0.4)]
    noise = np.random.default_rng(2).normal(0, 3, (5, LOGITS.size)).astype(np.float32)
    for seed in range(40):
        own = state(seed=seed, **settings)
        (alone,) = choose_tokens(LOGITS[None], [own])
        for place in range(5):
            logits = noise.copy()
            logits[place] = LOGITS
            states = [*others[:place], own, *others[place:]]
            assert choose_tokens(logits, states)[place] == alone


def test_a_row_of_a_large_vocabulary_doesnt_depend_on_its_place_in_memory() -> None:
    logits = np.random.default_rng(3).normal(0, 2, (3, 4001)).astype(np.float32)
    logits[:] = logits[0]
    for top_p in (1.0, 0.9, 0.999):
        own = SamplingState(settings=SamplingSettings(seed=9, top_p=top_p), position=7)
        assert len(set(choose_tokens(logits, [own] * 3).tolist())) == 1


def test_seeds_and_positions_change_the_tokens() -> None:
    by_seed = [choose_token(LOGITS, state(seed=seed)) for seed in range(50)]
    by_position = [choose_token(LOGITS, state(position=at)) for at in range(50)]
    assert len(set(by_seed)) > 4
    assert len(set(by_position)) > 4


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0}])
def test_greedy_is_the_first_of_the_likeliest_tokens(settings: dict[str, Any]) -> None:
    for seed in range(20):
        assert choose_token(LOGITS, state(seed=seed, **settings)) == 2


def test_greedy_heeds_penalties_bias_and_masks() -> None:
    assert choose_token(LOGITS, state(top_k=1, presence_penalty=1)) == 3
    assert choose_token(LOGITS, state(top_k=1, logit_bias={6: 9.0})) == 6
    assert choose_token(LOGITS, state(top_k=1, masked=True)) == 3
    ends = frozenset({2, 3})
    assert choose_token(LOGITS, state(top_k=1, min_tokens=5, end_tokens=ends)) == 9
    assert choose_token(LOGITS, state(top_k=1, min_tokens=4, end_tokens=ends)) == 2


def test_a_state_after_a_token_is_that_of_the_next_step() -> None:
    own = state(frequency_penalty=0.5, seed=4)
    following = own.after(6)
    assert following.position == own.position + 1
    assert following.tokens is not None
    assert following.tokens.tolist() == [*PROMPT, *ANSWER, 6]
    assert own.tokens is not None
    assert own.tokens.tolist() == PROMPT + ANSWER
    assert GREEDY.after(6) is GREEDY


def test_the_models_logits_are_not_changed() -> None:
    logits = LOGITS.copy()
    for settings in SETTINGS:
        choose_token(logits, state(masked=True, **settings))
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_logits_still_give_a_valid_token(
    settings: dict[str, Any], value: float
) -> None:
    for logits in (np.full(12, value, np.float32), LOGITS.copy()):
        logits[4] = value
        assert 0 <= choose_token(logits, state(masked=True, **settings)) < 12


def test_a_tiny_temperature_is_greedy() -> None:
    logits = LOGITS + np.float32([0, 0, 0, 1] * 3)
    for temperature in (1e-3, 1e-30, 1e-60):
        assert choose_token(logits, state(temperature=temperature)) == 3


numbers = st.lists(
    st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=700
)


@given(values=numbers, data=st.data())
def test_largest_are_the_first_of_a_stable_descending_order(
    values: list[float], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(values)))
    array = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda index: (-array[index], index))
    assert largest(array, count).tolist() == sorted(expected[:count])


@given(values=numbers, share=st.floats(0, 1, exclude_max=True))
def test_an_index_is_where_the_cumulative_sum_passes_its_share(
    values: list[float], share: float
) -> None:
    weights = np.array(values, np.float32).clip(0)
    index = index_at(weights, share)
    total = weights.sum(dtype=np.float64)
    if not total:
        assert index is None
        return
    assert index is not None
    assert weights[index] > 0
    sums = np.append(0, weights.cumsum(dtype=np.float64))
    tolerance = 1e-9 * total
    assert sums[index] <= share * total + tolerance
    assert sums[index + 1] >= share * total - tolerance


@given(st.floats(0, 1, exclude_max=True), st.floats(0.0625, 3, width=32))
def test_a_nucleus_is_the_smallest_that_has_the_mass(top_p: float, sd: float) -> None:
    weights = np.exp(np.random.default_rng(1).normal(0, sd, 3000)).astype(np.float32)
    weights /= weights.max()
    kept = nucleus(weights, top_p)
    count = len(kept)
    assert kept.tolist() == largest(weights, count).tolist()
    ordered = np.sort(weights)[::-1].astype(np.float64)
    total = ordered.sum()
    assert ordered[:count].sum() >= (top_p - 1e-9) * total
    assert count == 1 or ordered[: count - 1].sum() < (top_p + 1e-9) * total


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"top_k": 50, "top_p": 0.9},
        {"top_p": 0.95},
        {"top_p": 0.99, "temperature": 2.0},
        {"min_p": 0.05},
        {"repetition_penalty": 1.1, "frequency_penalty": 0.5},
    ],
    ids=str,
)
def test_a_token_of_a_published_model_takes_a_millisecond(
    settings: dict[str, Any],
) -> None:
    """Of a core's time; the limit has room for slower machines."""
    logits = np.random.default_rng(4).normal(0, 2, (1, LLAMA)).astype(np.float32)
    own = SamplingState(
        settings=SamplingSettings(**settings),
        prompt_length=500,
        position=1000,
        tokens=np.arange(1000),
    )
    times = []
    for _ in range(15):
        started = time.thread_time()
        choose_tokens(logits, [own])
        times.append(time.thread_time() - started)
    assert float(np.median(times)) < 0.004
