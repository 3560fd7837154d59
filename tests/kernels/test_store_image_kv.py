"""Checks what is stored in the image cache."""

from __future__ import annotations

import numpy as np
import pytest
from max.dtype import DType

from mllama.kernels.ops.attention import PAGE_SIZE
from tests.kernels.image_attention import KINDS, ImageOps, from_cache, to_cache

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k[0]}_{k[1].name}")


@each_kind
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_stores_write_only_their_own_patches(
    ops: ImageOps, kind: tuple[int, DType], kv_heads: int
) -> None:
    """Two images begin within a page, one ends there, and one has no patches."""
    head_dim, dtype = kind
    rng = np.random.default_rng(8)
    shape = (7, 2, 3, PAGE_SIZE, kv_heads, head_dim)
    cache = from_cache(to_cache(rng.normal(0, 1, shape).astype(np.float32), dtype))
    lengths, starts = [300, 5, 0], [100, 126, 3]
    table = np.array([[6, 1, 3, 5], [4, 2, 2, 2], [0, 0, 0, 0]])
    keys, values = (
        rng.normal(0, 1, (305, kv_heads, head_dim)).astype(np.float32) for _ in range(2)
    )
    actual = ops.store(cache, dtype, keys, values, 2, table, lengths, starts)
    expected = cache.copy()
    for side, tokens in enumerate((keys, values)):
        for image, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            for i in range(length):
                page, index = divmod(start + i, PAGE_SIZE)
                expected[table[image, page], side, 2, index] = tokens[
                    sum(lengths[:image]) + i
                ]
    np.testing.assert_array_equal(actual, from_cache(to_cache(expected, dtype)))


def test_stores_round_to_the_nearest_multiple_of_a_scale(ops: ImageOps) -> None:
    """Each head of each token has its own scale, and zeros stay zeros."""
    tokens = np.zeros((2, 2, 24), np.float32)
    tokens[0, 0, :5] = [127, -127, 0.49, -0.51, 63.6]
    tokens[0, 1, :3] = [1e-5, -0.4e-5, 0]
    tokens[1, 0, :2] = [1e-35, -1e-35]
    tokens[1, 1, :2] = [3e38, -3e38]
    cache = np.ones((1, 2, 1, PAGE_SIZE, 2, 24), np.float32)
    actual = ops.store(
        cache, DType.int8, tokens, -tokens, 0, np.zeros((1, 1)), [2], [5]
    )[0, :, 0, 5:7]
    expected = np.zeros((2, 2, 24))
    expected[0, 0, :5] = [127, -127, 0, -1, 64]
    expected[0, 1, :2] = [1e-5, -51e-5 / 127]
    expected[1, 1, :2] = [3e38, -3e38]
    np.testing.assert_allclose(actual[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(actual[1], -actual[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_in_int8_with_a_value_that_is_not_finite_becomes_nan(
    ops: ImageOps, value: float
) -> None:
    tokens = np.ones((2, 2, 24), np.float32)
    tokens[0, 1, 7] = value
    cache = np.zeros((1, 2, 1, PAGE_SIZE, 2, 24), np.float32)
    actual = ops.store(
        cache, DType.int8, tokens, tokens, 0, np.zeros((1, 1)), [2], [0]
    )[0, 0, 0, :2]
    assert np.isnan(actual[0, 1]).all()
    actual[0, 1] = 1
    np.testing.assert_allclose(actual, 1)


def test_stores_round_to_the_nearest_bfloat16(ops: ImageOps) -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -0.0, np.inf])
    tokens = np.resize(values, (1, 1, 64)).astype(np.float32)
    cache = np.zeros((1, 2, 1, PAGE_SIZE, 1, 64), np.float32)
    actual = ops.store(
        cache, DType.bfloat16, tokens, -tokens, 0, np.zeros((1, 1)), [1], [5]
    )
    expected = np.resize([1, 1 + 2**-6, 1 + 2**-7, -0.0, np.inf], 64)
    np.testing.assert_array_equal(actual[0, 0, 0, 5, 0], expected)
    np.testing.assert_array_equal(actual[0, 1, 0, 5, 0], -expected)


@pytest.mark.parametrize(
    ("lengths", "starts", "table", "layer", "message"),
    [
        ([4], [0], [[2]], 0, "page beyond the cache"),
        ([4], [126], [[0]], 0, "more tokens than its page table covers"),
        ([4], [2**32 - 1], [[0]], 0, "more tokens than its page table covers"),
        ([3], [0], [[0]], 0, "don't cover"),
        ([4], [0], [[0]], 1, "doesn't have this layer"),
        ([4], [0, 0], [[0]], 0, "differ in number"),
    ],
)
def test_writes_out_of_bounds_raise(
    ops: ImageOps,
    lengths: list[int],
    starts: list[int],
    table: list[list[int]],
    layer: int,
    message: str,
) -> None:
    cache = np.zeros((2, 2, 1, PAGE_SIZE, 1, 16), np.float32)
    tokens = np.ones((4, 1, 16), np.float32)
    with pytest.raises(Exception, match=message):
        ops.store(
            cache,
            DType.float32,
            tokens,
            tokens,
            layer,
            np.array(table),
            lengths,
            starts,
        )
