"""Compares attention to the KV cache with NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import BufferType, DeviceRef, Graph, TensorType

from mllama.kernels.dispatch import mojo_package, uses_custom_ops
from mllama.kernels.ops.attention import MOJO_PACKAGE, PAGE_SIZE, causal_attention
from tests.kernels.simd_widths import KERNELS, use_kernels

Array = np.ndarray

HEAD_DIMS = (16, 24, 128)
"""Widths of heads for which the tests' graph has an op."""

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)

each_head_dim = pytest.mark.parametrize("head_dim", HEAD_DIMS)


@dataclass(frozen=True)
class Batch:
    """New tokens of some requests, and the cache that holds them already."""

    query: Array
    cache: Array
    layer: int
    table: Array
    lengths: Sequence[int]
    cached: Sequence[int]

    def expected_output(self) -> Array:
        """Returns the expected attention, computed in float64."""
        _, heads, head_dim = self.query.shape
        result = np.zeros(self.query.shape)
        token = 0
        for length, cached, pages in zip(
            self.lengths, self.cached, self.table, strict=True
        ):
            keys, values = (
                np.repeat(
                    self.cache[pages, side, self.layer]
                    .reshape(-1, *self.cache.shape[-2:])
                    .astype(np.float64),
                    heads // self.cache.shape[-2],
                    axis=1,
                )
                for side in (0, 1)
            )
            for i in range(length):
                visible = cached + i + 1
                scores = np.einsum("hd,khd->hk", self.query[token], keys[:visible])
                scores *= head_dim**-0.5
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                result[token] = np.einsum("hk,khd->hd", weights, values[:visible])
                token += 1
        return result


class CausalAttention:
    """A graph with the op for every head width; the others get no tokens."""

    def __init__(self) -> None:
        cpu = DeviceRef.CPU()
        types: list[Any] = []
        for width in HEAD_DIMS:
            shape = [f"pages_{width}", 2, f"layers_{width}", f"size_{width}"]
            types += [
                TensorType(
                    DType.float32, [f"rows_{width}", f"heads_{width}", width], cpu
                ),
                BufferType(DType.float32, [*shape, f"kv_heads_{width}", width], cpu),
                TensorType(DType.uint32, [], cpu),
                TensorType(
                    DType.uint32, [f"requests_{width}", f"columns_{width}"], cpu
                ),
                TensorType(DType.uint32, [f"offsets_{width}"], cpu),
                TensorType(DType.uint32, [f"lengths_{width}"], cpu),
            ]
        with Graph(
            "causal_attention",
            input_types=types,
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        ) as graph:
            outputs = []
            for start in range(0, len(types), 6):
                query, cache, layer, table, offsets, lengths = graph.inputs[
                    start : start + 6
                ]
                outputs.append(
                    causal_attention(
                        query.tensor,
                        cache.buffer,
                        layer.tensor,
                        table=table.tensor,
                        token_offsets=offsets.tensor,
                        cache_lengths=lengths.tensor,
                    )
                )
            graph.output(*outputs)
        self.model: Model = InferenceSession(devices=[CPU()]).load(graph)

    def __call__(self, batch: Batch, **changed: Array) -> Array:
        """Runs the op on a batch, with some arguments changed."""
        inputs: list[Any] = []
        for width in HEAD_DIMS:
            given: dict[str, Any] = {
                "query": np.zeros((0, 1, width), np.float32),
                "cache": np.zeros((1, 2, 1, PAGE_SIZE, 1, width), np.float32),
                "layer": np.zeros(1),
                "table": np.zeros((0, 1), np.uint32),
                "offsets": np.zeros(1, np.uint32),
                "lengths": np.zeros(0, np.uint32),
            }
            if width == batch.query.shape[2]:
                given |= {
                    "query": batch.query,
                    "cache": batch.cache,
                    "layer": np.array([batch.layer]),
                    "table": batch.table.astype(np.uint32),
                    "offsets": np.cumsum([0, *batch.lengths]).astype(np.uint32),
                    "lengths": np.array(batch.cached, np.uint32),
                    **changed,
                }
            layer = Buffer.scalar(int(given.pop("layer")[0]), DType.uint32)
            buffers = [Buffer.from_numpy(value) for value in given.values()]
            inputs += [*buffers[:2], layer, *buffers[2:]]
        index = HEAD_DIMS.index(batch.query.shape[2])
        return self.model.execute(*inputs)[index].to_numpy()


@pytest.fixture(scope="module", params=KERNELS)
def attention(request: pytest.FixtureRequest) -> CausalAttention:
    with use_kernels(request.param):
        return CausalAttention()


def random_batch(
    seed: int,
    head_dim: int,
    lengths: Sequence[int],
    cached: Sequence[int],
    *,
    gqa_ratio: int = 4,
    kv_heads: int = 2,
) -> Batch:
    """Returns a batch with pages in random order, and NaN beyond a request's tokens."""
    rng = np.random.default_rng(seed)
    totals = [sum(both) for both in zip(lengths, cached, strict=True)]
    used = [-(-total // PAGE_SIZE) for total in totals]
    num_pages = sum(used) + 2
    pages = rng.permutation(num_pages)
    table = np.full((len(used), max(used) + 1), pages[-1])
    cache = rng.normal(0, 1, (num_pages, 2, 3, PAGE_SIZE, kv_heads, head_dim))
    for row, total, number, end in zip(
        table, totals, used, np.cumsum(used), strict=True
    ):
        row[:number] = pages[end - number : end]
        if total % PAGE_SIZE:
            cache[row[number - 1], :, :, total % PAGE_SIZE :] = np.nan
    query = rng.normal(0, 1, (sum(lengths), kv_heads * gqa_ratio, head_dim))
    return Batch(
        query=query.astype(np.float32),
        cache=cache.astype(np.float32),
        layer=1,
        table=table,
        lengths=lengths,
        cached=cached,
    )


def check(attention: CausalAttention, batch: Batch) -> None:
    actual, expected = attention(batch), batch.expected_output()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6)


@each_head_dim
@pytest.mark.parametrize(
    ("lengths", "cached"),
    [
        ([1], [0]),
        ([1], [1]),
        ([1], [127]),
        ([1], [128]),
        ([1], [1000]),
        ([2], [0]),
        ([3], [300]),
        ([13], [0]),
        ([240], [0]),
        ([241], [0]),
        ([500], [0]),
        ([300], [700]),
        ([1, 1, 1], [5, 600, 0]),
        ([1, 200, 3, 1], [400, 100, 0, 128]),
    ],
)
def test_attention_matches_numpy_for_any_request_sizes(
    attention: CausalAttention, head_dim: int, lengths: list[int], cached: list[int]
) -> None:
    check(attention, random_batch(len(lengths), head_dim, lengths, cached))


@each_head_dim
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 400)), min_size=1, max_size=5
    ),
    gqa_ratio=st.sampled_from([1, 2, 3, 4, 8, 20]),
    kv_heads=st.integers(1, 3),
)
def test_attention_matches_numpy_for_random_batches(
    attention: CausalAttention,
    head_dim: int,
    seed: int,
    sizes: list[tuple[int, int]],
    gqa_ratio: int,
    kv_heads: int,
) -> None:
    lengths, cached = zip(*sizes, strict=True)
    check(
        attention,
        random_batch(
            seed, head_dim, lengths, cached, gqa_ratio=gqa_ratio, kv_heads=kv_heads
        ),
    )


def test_requests_may_share_pages(attention: CausalAttention) -> None:
    """MAX's prefix cache lets requests share the pages of a common beginning."""
    batch = random_batch(1, 128, [1, 1, 1], [300, 300, 300])
    batch.table[1:, :2] = batch.table[0, :2]
    check(attention, batch)


@pytest.mark.parametrize("lengths", [[1], [30]])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_stay_within_their_request(
    attention: CausalAttention, lengths: list[int], value: float
) -> None:
    batch = random_batch(2, 128, [*lengths, *lengths], [200, 200])
    expected = batch.expected_output()[lengths[0] :]
    batch.cache[batch.table[0, 0], 1, 1, 5] = value
    actual = attention(batch)
    assert not np.isfinite(actual[: lengths[0]]).any()
    np.testing.assert_allclose(actual[lengths[0] :], expected, rtol=0, atol=5e-6)


def test_a_batch_without_tokens_gives_no_output(attention: CausalAttention) -> None:
    batch = random_batch(3, 16, [2], [3])
    nothing = {
        "query": batch.query[:0],
        "offsets": np.zeros(1, np.uint32),
        "lengths": np.zeros(0, np.uint32),
        "table": np.zeros((0, 1), np.uint32),
    }
    assert attention(batch, **nothing).shape == (0, 8, 16)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"offsets": np.array([0, 9], np.uint32)}, "don't cover"),
        ({"offsets": np.array([1, 5], np.uint32)}, "don't cover"),
        ({"offsets": np.array([0, 2, 5], np.uint32)}, "differ in number"),
        ({"lengths": np.array([1, 2], np.uint32)}, "differ in number"),
        (
            {"lengths": np.array([400], np.uint32)},
            "more keys than its page table covers",
        ),
        ({"table": np.array([[99, 0]], np.uint32)}, "a page beyond the cache"),
        ({"layer": np.array([3])}, "doesn't have this layer"),
        ({"cache": np.zeros((5, 2, 3, 64, 2, 16), np.float32)}, "pages must be"),
        (
            {"cache": np.zeros((5, 2, 3, 128, 3, 16), np.float32)},
            "shapes of queries and pages",
        ),
    ],
)
def test_inconsistent_arguments_raise(
    attention: CausalAttention, changed: dict[str, Array], message: str
) -> None:
    batch = random_batch(4, 16, [5], [3])
    with pytest.raises(Exception, match=message):
        attention(batch, **changed)
    check(attention, batch)
