"""Compares attention to the image cache with NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.dtype import DType

from mllama.kernels.ops.attention import PAGE_SIZE
from tests.kernels.image_attention import (
    KINDS,
    Batch,
    ImageOps,
    from_cache,
    random_batch,
    to_cache,
)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k[0]}_{k[1].name}")


def tolerance(dtype: DType) -> float:
    """Returns the largest error; queries of keys in int8 are rounded to 16 bits."""
    return 2e-4 if dtype is DType.int8 else 3e-6


def check(ops: ImageOps, batch: Batch, dtype: DType, factor: float = 1) -> None:
    actual = ops.attend(batch, dtype)
    np.testing.assert_allclose(
        actual, batch.expected_output(), rtol=0, atol=factor * tolerance(dtype)
    )


@each_kind
@pytest.mark.parametrize(
    ("lengths", "counts"),
    [
        ([1], [1]),
        ([1], [2]),
        ([1], [3]),
        ([1], [128]),
        ([1], [129]),
        ([1], [1601]),
        ([3], [37]),
        ([5], [1601]),
        ([7], [255]),
        ([10, 11], [129, 300]),
        ([40], [1]),
        ([40], [241]),
        ([61], [1000]),
        ([200], [643]),
        ([1, 30, 0, 2], [500, 300, 7, 1]),
        ([5, 4], [0, 3]),
    ],
)
def test_attention_matches_numpy_for_any_segment_sizes(
    ops: ImageOps, kind: tuple[int, DType], lengths: list[int], counts: list[int]
) -> None:
    rng = np.random.default_rng(len(lengths))
    check(ops, random_batch(rng, kind, lengths, counts), kind[1])


@each_kind
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 400)), min_size=1, max_size=6
    ),
    gqa_ratio=st.sampled_from([1, 2, 3, 4, 8]),
    kv_heads=st.integers(1, 3),
)
def test_attention_matches_numpy_for_random_batches(
    ops: ImageOps,
    kind: tuple[int, DType],
    seed: int,
    sizes: list[tuple[int, int]],
    gqa_ratio: int,
    kv_heads: int,
) -> None:
    lengths, counts = zip(*sizes, strict=True)
    batch = random_batch(
        np.random.default_rng(seed),
        kind,
        lengths,
        counts,
        gqa_ratio=gqa_ratio,
        kv_heads=kv_heads,
    )
    check(ops, batch, kind[1])


@each_kind
@pytest.mark.parametrize("tokens", [1, 2, 20])
def test_segments_may_share_pages(
    ops: ImageOps, kind: tuple[int, DType], tokens: int
) -> None:
    """One of the segments reads fewer keys, and one reads pages of its own."""
    batch = random_batch(
        np.random.default_rng(tokens),
        kind,
        [tokens, 1, tokens, 3, tokens],
        [300, 300, 260, 200, 300],
        shared=[1, 2, 4],
    )
    check(ops, batch, kind[1])


@each_kind
@pytest.mark.parametrize("tokens", [1, 30])
@pytest.mark.parametrize("size", [1e-20, 1e4, 1e15])
def test_scores_of_any_magnitude_give_finite_output(
    ops: ImageOps, kind: tuple[int, DType], tokens: int, size: float
) -> None:
    """Where one score dominates, its value is the output."""
    batch = random_batch(np.random.default_rng(3), kind, [tokens], [600])
    batch = replace(batch, norm_weight=batch.norm_weight * np.float32(size))
    actual, expected = ops.attend(batch, kind[1]), batch.expected_output()
    assert np.isfinite(actual).all()
    # With few exceptions, scores this large differ by more than their rounding.
    close = np.abs(actual - expected).max(-1) < 1e-2
    assert close.mean() > 0.99


@each_kind
@pytest.mark.parametrize("tokens", [1, 30])
@pytest.mark.parametrize("grows", [True, False])
def test_attention_matches_numpy_if_scores_change_with_each_page(
    ops: ImageOps, kind: tuple[int, DType], tokens: int, grows: bool
) -> None:
    batch = random_batch(np.random.default_rng(4), kind, [tokens], [700])
    steps = np.linspace(0.1, 6, batch.table.shape[1])
    for page, step in zip(batch.table[0], steps if grows else steps[::-1], strict=True):
        batch.cache[page, 0] *= step
    if kind[1] is not DType.float32:
        batch = replace(batch, cache=from_cache(to_cache(batch.cache, kind[1])))
    # Scores of about a hundred are rounded to 1e-5, and weights to several times that.
    check(ops, batch, kind[1], factor=35)


@each_kind
@pytest.mark.parametrize("tokens", [1, 30])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinity_stay_within_their_segment(
    ops: ImageOps, kind: tuple[int, DType], tokens: int, value: float, side: int
) -> None:
    batch = random_batch(
        np.random.default_rng(5), kind, [tokens, tokens, tokens], [200, 150, 200]
    )
    expected = batch.expected_output()
    batch.cache[batch.table[1, 0], side, 1, 17] = value
    # The first segment must not read the rest of its last page.
    batch.cache[batch.table[0, 1], side, 1, 200 - PAGE_SIZE :] = value
    actual = ops.attend(batch, kind[1])
    for segment in (slice(tokens), slice(2 * tokens, None)):
        np.testing.assert_allclose(
            actual[segment], expected[segment], rtol=0, atol=tolerance(kind[1])
        )
    assert not np.array_equal(
        actual[tokens : 2 * tokens], expected[tokens : 2 * tokens]
    )


@each_kind
@pytest.mark.parametrize("length", [0, 1, 40])
def test_tokens_without_keys_get_zeros(
    ops: ImageOps, kind: tuple[int, DType], length: int
) -> None:
    batch = random_batch(np.random.default_rng(6), kind, [length, 1], [0, 5])
    assert not ops.attend(batch, kind[1])[:length].any()


@each_kind
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": np.array([[0, 99]])}, "page beyond the cache"),
        ({"table": np.array([[2**32 - 1, 0]])}, "page beyond the cache"),
        ({"counts": [257]}, "more keys than its page table covers"),
        ({"counts": [2**31]}, "more keys than its page table covers"),
        ({"lengths": [3]}, "don't cover the query tokens"),
        ({"lengths": [1]}, "don't cover the query tokens"),
        ({"layer": 3}, "doesn't have this layer"),
        ({"counts": [1, 1]}, "differ in number"),
        ({"query": np.zeros((2, 3, 1), np.float32)}, "shapes of queries and pages"),
    ],
)
def test_reads_out_of_bounds_raise(
    ops: ImageOps, kind: tuple[int, DType], change: dict[str, Any], message: str
) -> None:
    batch = random_batch(np.random.default_rng(7), kind, [2], [200])
    if "table" not in change:
        change = change | {"table": batch.table[:, :2]}
    if "query" in change:
        change = change | {"query": np.zeros((2, 3, kind[0]), np.float32)}
    with pytest.raises(Exception, match=message):
        ops.attend(replace(batch, **change), kind[1])
    check(ops, batch, kind[1])
