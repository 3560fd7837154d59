"""Attention weights from queries and the keys of an image cache."""

from __future__ import annotations

import numpy as np
import pytest
from max.driver import CPU, Buffer
from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import MHAKVCacheParams

from mllama.image_cache.block_manager import Entry
from mllama.image_cache.storage import ImageCacheStorage
from mllama.images.patch_grid import PatchGrid
from mllama.runtime.attention.head_choice import head_scores
from mllama.runtime.attention.weights import (
    AttentionWeights,
    TokenSpan,
    softmax_weights,
)
from mllama.utils.bfloat16 import from_bfloat16, to_bfloat16

LAYERS, PAGE, KV_HEADS, HEADS, DIM = 2, 8, 2, 4, 16
GRID = PatchGrid(1, 1, 3, 3, 3, 48, 48, 48.0, 48.0)
"""Three by three patches and a class token: ten image tokens."""


def filled(dtype: DType, keys: np.ndarray) -> tuple[ImageCacheStorage, Entry]:
    """Returns a cache and an entry of two images with ten tokens each.

    Args:
        dtype: The cache's.
        keys: ``[layers, 20, kv heads, head dim]``.
    """
    params = MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=KV_HEADS,
        head_dim=DIM,
        num_layers=LAYERS,
        page_size=PAGE,
        devices=[DeviceRef.CPU()],
    )
    storage = ImageCacheStorage(params, [CPU()], 6)
    # In no order.
    entry = Entry((1, 2), (4, 1, 3), (10, 20), [True, True])
    pages = np.zeros((6, 2, LAYERS, PAGE, KV_HEADS, DIM), np.float32)
    pages[:, 1] = 99
    for token in range(20):
        pages[entry.pages[token // PAGE], 0, :, token % PAGE] = keys[:, token]
    if dtype is DType.bfloat16:
        host = Buffer.from_numpy(to_bfloat16(pages)).view(DType.bfloat16)
    else:
        host = Buffer.from_numpy(pages)
    storage.pages[0].inplace_copy_from(host)
    return storage, entry


@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16])
def test_weights_are_the_softmax_over_the_images_that_a_token_sees(
    dtype: DType,
) -> None:
    rng = np.random.default_rng(1)
    keys = rng.normal(size=(LAYERS, 20, KV_HEADS, DIM)).astype(np.float32)
    queries = rng.normal(size=(LAYERS, 5, HEADS, DIM)).astype(np.float32)
    storage, entry = filled(dtype, keys)
    if dtype is DType.bfloat16:
        keys = from_bfloat16(to_bfloat16(keys))
    weights = AttentionWeights(
        storage,
        queries,
        [TokenSpan(1, 2, entry, range(1)), TokenSpan(2, 5, entry, range(2))],
        [10, 10],
    )
    first, second = weights.mean({0: [1], 1: [0, 3]})
    for token in range(5):
        expected = np.zeros(20)
        seen = {0: 0, 1: 10}.get(token, 20)
        for layer, head in ((0, 1), (1, 0), (1, 3)):
            scores = keys[layer, :seen, head // 2] @ queries[layer, token, head] / 4
            exponents = np.exp(scores.astype(np.float64))
            expected[:seen] += exponents / max(exponents.sum(), 1e-30) / 3
        found = np.concatenate([first[token], second[token]])
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_large_scores_stay_finite() -> None:
    weights = softmax_weights(
        np.full((1, 2, 4), 1e4, np.float32), np.full((3, 1, 4), 1e4, np.float32)
    )
    np.testing.assert_allclose(weights, np.full((2, 1, 3), 1 / 3), rtol=1e-6)


def test_the_head_that_looks_at_one_place_is_best() -> None:
    keys = np.zeros((LAYERS, 20, KV_HEADS, DIM), np.float32)
    keys[:, np.arange(20), :, np.arange(20) % DIM] = 1
    storage, entry = filled(DType.float32, keys)
    queries = np.zeros((LAYERS, 6, HEADS, DIM), np.float32)
    # This one looks at another patch for each token, the others everywhere.
    for token in range(6):
        queries[1, token, 2, 1 + token] = 100
    # One looks at a class token.
    queries[0, :, 1, 0] = 100
    weights = AttentionWeights(
        storage, queries, [TokenSpan(2, 6, entry, range(1))], [10, 10]
    )
    every = {layer: range(HEADS) for layer in range(LAYERS)}
    scores = head_scores(weights, [GRID, GRID], every, range(6), (3, 8))
    assert len(scores) == LAYERS * HEADS
    assert scores[0].head == (8, 2)
    assert scores[0].entropy == pytest.approx(0, abs=1e-4)
    assert scores[0].image_mass == pytest.approx(1, abs=1e-4)
    assert scores[-1].head == (3, 1)
    assert scores[1].entropy == pytest.approx(np.log(9) - np.log(0.9), abs=1e-4)
    assert head_scores(weights, [GRID, GRID], every, range(2), (3, 8)) == []
