"""Attention over the image pool, and stores into it, against plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from mllama.kernels.ops.attention import (
    MOJO_PACKAGE,
    PAGE_SIZE,
    image_attention,
    store_image_kv,
)
from mllama.utils.bfloat16 import to_bfloat16
from tests.kernels.widths import KERNELS, use_kernels

Array = np.ndarray

EPSILON = 1e-5
KINDS = (
    (16, DType.float32),
    (24, DType.float32),
    (64, DType.bfloat16),
    (128, DType.float32),
    (128, DType.bfloat16),
)
"""Head dimensions and pools that the tests' graph has operations for."""

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k[0]}_{k[1].name}")

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU lacks what own operations need",
)


@dataclass(frozen=True)
class Batch:
    """What the attention is given."""

    query: Array
    norm_weight: Array
    pool: Array
    layer: int
    table: Array
    lengths: Sequence[int]
    counts: Sequence[int]

    def attended(self) -> Array:
        """The plain form, in float64."""
        _, heads, head_dim = self.query.shape
        query = self.query.astype(np.float64)
        mean = np.square(query).mean(-1, keepdims=True)
        query = query / np.sqrt(mean + EPSILON) * self.norm_weight
        result = np.zeros(query.shape)
        row = 0
        for length, count, pages in zip(
            self.lengths, self.counts, self.table, strict=True
        ):
            taken = pages[: -(-count // PAGE_SIZE)]
            keys, values = (
                np.repeat(
                    self.pool[taken, side, self.layer]
                    .reshape(-1, *self.pool.shape[-2:])[:count]
                    .astype(np.float64),
                    heads // self.pool.shape[-2],
                    axis=1,
                )
                for side in (0, 1)
            )
            mine = slice(row, row + length)
            row += length
            if not count:
                continue
            scores = query[mine].transpose(1, 0, 2) @ keys.transpose(1, 2, 0)
            scores *= head_dim**-0.5
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            result[mine] = (weights @ values.transpose(1, 0, 2)).transpose(1, 0, 2)
        return result


def offsets(lengths: Sequence[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.uint32)


def as_pool(values: Array, dtype: DType) -> Buffer:
    if dtype is DType.bfloat16:
        return Buffer.from_numpy(to_bfloat16(values)).view(dtype, values.shape)
    return Buffer.from_numpy(np.array(values))


def from_pool(buffer: Buffer) -> Array:
    if buffer.dtype is DType.bfloat16:
        bits = buffer.view(DType.uint16, buffer.shape).to_numpy()
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return np.array(buffer.to_numpy())


def layer_input(layer: int) -> Array:
    return np.array(layer, np.uint32)


class Operations:
    """One graph with the operations of all kinds; those that aren't asked for get
    nothing to do."""

    def __init__(self) -> None:
        cpu = DeviceRef.CPU()
        inputs: list[Any] = []
        for number, (head_dim, dtype) in enumerate(KINDS):

            def dims(*names: str, number: int = number) -> list[str]:
                return [f"{name}_{number}" for name in names]

            pool = BufferType(
                dtype,
                [
                    *dims("pages"),
                    2,
                    *dims("layers"),
                    PAGE_SIZE,
                    *dims("kv_heads"),
                    head_dim,
                ],
                cpu,
            )
            inputs += [
                pool,
                TensorType(DType.float32, [*dims("rows", "heads"), head_dim], cpu),
                TensorType(DType.float32, [head_dim], cpu),
                TensorType(DType.uint32, [], cpu),
                TensorType(DType.uint32, dims("segments", "columns"), cpu),
                TensorType(DType.uint32, dims("row_offsets"), cpu),
                TensorType(DType.uint32, dims("key_offsets"), cpu),
                TensorType(DType.float32, [*dims("new", "kv_heads"), head_dim], cpu),
                TensorType(DType.float32, [*dims("new", "kv_heads"), head_dim], cpu),
                TensorType(DType.uint32, dims("images", "image_columns"), cpu),
                TensorType(DType.uint32, dims("image_offsets"), cpu),
                TensorType(DType.uint32, dims("starts"), cpu),
            ]
        self.width = len(inputs) // len(KINDS)
        with Graph(
            "image_attention",
            input_types=inputs,
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        ) as graph:
            outputs = []
            for start in range(0, len(inputs), self.width):
                pool, query, norm, layer, table, rows, keys, *new = graph.inputs[
                    start : start + self.width
                ]
                key, value, image_table, image_rows, starts = (v.tensor for v in new)
                store_image_kv(
                    pool.buffer,
                    key,
                    value,
                    layer.tensor,
                    table=image_table,
                    patch_offsets=image_rows,
                    starts=starts,
                )
                outputs.append(
                    image_attention(
                        query.tensor,
                        norm.tensor,
                        pool.buffer,
                        layer.tensor,
                        table=table.tensor,
                        segment_offsets=rows.tensor,
                        image_offsets=keys.tensor,
                        epsilon=EPSILON,
                    )
                )
            graph.output(*outputs)
        self.model: Model = InferenceSession(devices=[CPU()]).load(graph)

    def _run(self, kind: tuple[int, DType], given: dict[int, Any]) -> Array:
        inputs = []
        for head_dim, dtype in KINDS:
            nothing: list[Any] = [
                as_pool(np.zeros((1, 2, 1, PAGE_SIZE, 1, head_dim), np.float32), dtype),
                np.zeros((0, 1, head_dim), np.float32),
                np.zeros(head_dim, np.float32),
                layer_input(0),
                np.zeros((0, 1), np.uint32),
                np.zeros(1, np.uint32),
                np.zeros(1, np.uint32),
                np.zeros((0, 1, head_dim), np.float32),
                np.zeros((0, 1, head_dim), np.float32),
                np.zeros((0, 1), np.uint32),
                np.zeros(1, np.uint32),
                np.zeros(0, np.uint32),
            ]
            if (head_dim, dtype) == kind:
                kv_heads = given[0].shape[4]
                for place in (7, 8):
                    nothing[place] = np.zeros((0, kv_heads, head_dim), np.float32)
                for place, value in given.items():
                    nothing[place] = value
            inputs += [
                Buffer.from_numpy(np.ascontiguousarray(value))
                if isinstance(value, np.ndarray) and value.shape
                else Buffer.scalar(int(value), DType.uint32)
                if isinstance(value, np.ndarray)
                else value
                for value in nothing
            ]
        return self.model.execute(*inputs)[KINDS.index(kind)].to_numpy()

    def attend(self, batch: Batch, dtype: DType, **changed: Any) -> Array:
        given = {
            0: as_pool(batch.pool, dtype),
            1: batch.query,
            2: batch.norm_weight,
            3: layer_input(batch.layer),
            4: batch.table.astype(np.uint32),
            5: offsets(batch.lengths),
            6: offsets(batch.counts),
        }
        return self._run((batch.query.shape[2], dtype), given)

    def store(
        self,
        pool: Array,
        dtype: DType,
        keys: Array,
        values: Array,
        layer: int,
        table: Array,
        lengths: Sequence[int],
        starts: Sequence[int],
    ) -> Array:
        """The pool afterwards."""
        buffer = as_pool(pool, dtype)
        given = {
            0: buffer,
            1: np.zeros((0, pool.shape[4], pool.shape[5]), np.float32),
            3: layer_input(layer),
            7: keys,
            8: values,
            9: table.astype(np.uint32),
            10: offsets(lengths),
            11: np.array(starts, np.uint32),
        }
        self._run((pool.shape[5], dtype), given)
        return from_pool(buffer)


@pytest.fixture(scope="module", params=KERNELS)
def ops(request: pytest.FixtureRequest) -> Operations:
    with use_kernels(request.param):
        return Operations()


def random_batch(
    chance: np.random.Generator,
    kind: tuple[int, DType],
    lengths: Sequence[int],
    counts: Sequence[int],
    *,
    share: int = 4,
    kv_heads: int = 2,
    shared: Sequence[int] = (),
) -> Batch:
    """Random pages in random order.

    Args:
        chance: The generator.
        kind: Head dimension and element type of the pool.
        lengths: Query rows of each segment.
        counts: Keys of each segment.
        share: Query heads of a kv head.
        kv_heads: How many there are.
        shared: Segments that read the pages of the first.
    """
    head_dim, dtype = kind
    used = [-(-count // PAGE_SIZE) for count in counts]
    num_pages = sum(used) + 3
    pages = chance.permutation(num_pages)
    table = np.full((len(counts), max(used) + 1), num_pages - 1)
    for row, number, end in zip(table, used, np.cumsum(used), strict=True):
        row[:number] = pages[end - number : end]
    for segment in shared:
        table[segment] = table[0]
    pool = chance.normal(0, 1, (num_pages, 2, 3, PAGE_SIZE, kv_heads, head_dim)).astype(
        np.float32
    )
    if dtype is DType.bfloat16:
        pool = from_pool(as_pool(pool, dtype))
    return Batch(
        query=chance.normal(0, 3, (sum(lengths), kv_heads * share, head_dim)).astype(
            np.float32
        ),
        norm_weight=chance.normal(1, 0.3, head_dim).astype(np.float32),
        pool=pool,
        layer=1,
        table=table,
        lengths=lengths,
        counts=counts,
    )


def check(ops: Operations, batch: Batch, dtype: DType, tolerance: float = 3e-6) -> None:
    found = ops.attend(batch, dtype)
    np.testing.assert_allclose(found, batch.attended(), rtol=0, atol=tolerance)


@every_kind
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
        ([7], [255]),
        ([40], [1]),
        ([40], [241]),
        ([61], [1000]),
        ([200], [643]),
        ([1, 30, 0, 2], [500, 300, 7, 1]),
        ([5, 4], [0, 3]),
    ],
)
def test_segments_of_any_size(
    ops: Operations, kind: tuple[int, DType], lengths: list[int], counts: list[int]
) -> None:
    chance = np.random.default_rng(len(lengths))
    check(ops, random_batch(chance, kind, lengths, counts), kind[1])


@every_kind
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 400)), min_size=1, max_size=6
    ),
    share=st.sampled_from([1, 2, 3, 4, 8]),
    kv_heads=st.integers(1, 3),
)
def test_random_batches(
    ops: Operations,
    kind: tuple[int, DType],
    seed: int,
    sizes: list[tuple[int, int]],
    share: int,
    kv_heads: int,
) -> None:
    lengths, counts = zip(*sizes, strict=True)
    batch = random_batch(
        np.random.default_rng(seed),
        kind,
        lengths,
        counts,
        share=share,
        kv_heads=kv_heads,
    )
    check(ops, batch, kind[1])


@every_kind
@pytest.mark.parametrize("rows", [1, 2, 20])
def test_segments_that_read_the_same_pages(
    ops: Operations, kind: tuple[int, DType], rows: int
) -> None:
    """Of which one reads fewer rows, and one stands apart from the others."""
    batch = random_batch(
        np.random.default_rng(rows),
        kind,
        [rows, 1, rows, 3, rows],
        [300, 300, 260, 200, 300],
        shared=[1, 2, 4],
    )
    check(ops, batch, kind[1])


@every_kind
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("size", [1e-20, 1e4, 1e15])
def test_scores_of_any_size(
    ops: Operations, kind: tuple[int, DType], rows: int, size: float
) -> None:
    """The largest wins where the others vanish, wherever it stands."""
    batch = random_batch(np.random.default_rng(3), kind, [rows], [600])
    batch = replace(batch, norm_weight=batch.norm_weight * np.float32(size))
    found, wanted = ops.attend(batch, kind[1]), batch.attended()
    assert np.isfinite(found).all()
    # Scores this large are apart by more than their rounding, with few exceptions.
    close = np.abs(found - wanted).max(-1) < 1e-2
    assert close.mean() > 0.99


@every_kind
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("grows", [True, False])
def test_scores_that_grow_from_block_to_block(
    ops: Operations, kind: tuple[int, DType], rows: int, grows: bool
) -> None:
    batch = random_batch(np.random.default_rng(4), kind, [rows], [700])
    steps = np.linspace(0.1, 6, batch.table.shape[1])
    for page, step in zip(batch.table[0], steps if grows else steps[::-1], strict=True):
        batch.pool[page, 0] *= step
    if kind[1] is DType.bfloat16:
        batch = replace(batch, pool=from_pool(as_pool(batch.pool, kind[1])))
    # Scores of a hundred are rounded to 1e-5, weights to several times as much.
    check(ops, batch, kind[1], tolerance=1e-4)


@every_kind
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_stays_with_its_readers(
    ops: Operations, kind: tuple[int, DType], rows: int, value: float, side: int
) -> None:
    batch = random_batch(
        np.random.default_rng(5), kind, [rows, rows, rows], [200, 150, 200]
    )
    wanted = batch.attended()
    batch.pool[batch.table[1, 0], side, 1, 17] = value
    # Rows of its last page that the first segment doesn't read are none of its.
    batch.pool[batch.table[0, 1], side, 1, 200 - PAGE_SIZE :] = value
    found = ops.attend(batch, kind[1])
    for segment in (slice(rows), slice(2 * rows, None)):
        np.testing.assert_allclose(found[segment], wanted[segment], rtol=0, atol=3e-6)
    assert not np.array_equal(found[rows : 2 * rows], wanted[rows : 2 * rows])


@every_kind
@pytest.mark.parametrize("length", [0, 1, 40])
def test_rows_that_read_nothing_are_zeros(
    ops: Operations, kind: tuple[int, DType], length: int
) -> None:
    batch = random_batch(np.random.default_rng(6), kind, [length, 1], [0, 5])
    assert not ops.attend(batch, kind[1])[:length].any()


@every_kind
@pytest.mark.parametrize(
    ("change", "complaint"),
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
def test_what_would_read_beyond_is_refused(
    ops: Operations, kind: tuple[int, DType], change: dict[str, Any], complaint: str
) -> None:
    batch = random_batch(np.random.default_rng(7), kind, [2], [200])
    if "table" not in change:
        change = change | {"table": batch.table[:, :2]}
    if "query" in change:
        change = change | {"query": np.zeros((2, 3, kind[0]), np.float32)}
    with pytest.raises(Exception, match=complaint):
        ops.attend(replace(batch, **change), kind[1])
    check(ops, batch, kind[1])


@every_kind
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_stores_write_their_rows_and_no_others(
    ops: Operations, kind: tuple[int, DType], kv_heads: int
) -> None:
    """Two images that begin amid a page, one that ends there, and one of no rows."""
    head_dim, dtype = kind
    chance = np.random.default_rng(8)
    shape = (7, 2, 3, PAGE_SIZE, kv_heads, head_dim)
    pool = from_pool(as_pool(chance.normal(0, 1, shape).astype(np.float32), dtype))
    lengths, starts = [300, 5, 0], [100, 126, 3]
    table = np.array([[6, 1, 3, 5], [4, 2, 2, 2], [0, 0, 0, 0]])
    keys, values = (
        chance.normal(0, 1, (305, kv_heads, head_dim)).astype(np.float32)
        for _ in range(2)
    )
    found = ops.store(pool, dtype, keys, values, 2, table, lengths, starts)
    wanted = pool.copy()
    for side, rows in enumerate((keys, values)):
        for image, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            for i in range(length):
                page, place = divmod(start + i, PAGE_SIZE)
                wanted[table[image, page], side, 2, place] = rows[
                    sum(lengths[:image]) + i
                ]
    np.testing.assert_array_equal(found, from_pool(as_pool(wanted, dtype)))


def test_bfloat16_is_rounded_to_the_nearest(ops: Operations) -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -0.0, np.inf])
    rows = np.resize(values, (1, 1, 64)).astype(np.float32)
    pool = np.zeros((1, 2, 1, PAGE_SIZE, 1, 64), np.float32)
    found = ops.store(pool, DType.bfloat16, rows, -rows, 0, np.zeros((1, 1)), [1], [5])
    wanted = np.resize([1, 1 + 2**-6, 1 + 2**-7, -0.0, np.inf], 64)
    np.testing.assert_array_equal(found[0, 0, 0, 5, 0], wanted)
    np.testing.assert_array_equal(found[0, 1, 0, 5, 0], -wanted)


@pytest.mark.parametrize(
    ("lengths", "starts", "table", "layer", "complaint"),
    [
        ([4], [0], [[2]], 0, "page beyond the cache"),
        ([4], [126], [[0]], 0, "more patches than its page table covers"),
        ([4], [2**32 - 1], [[0]], 0, "more patches than its page table covers"),
        ([3], [0], [[0]], 0, "don't cover"),
        ([4], [0], [[0]], 1, "doesn't have this layer"),
        ([4], [0, 0], [[0]], 0, "differ in number"),
    ],
)
def test_what_would_write_beyond_is_refused(
    ops: Operations,
    lengths: list[int],
    starts: list[int],
    table: list[list[int]],
    layer: int,
    complaint: str,
) -> None:
    pool = np.zeros((2, 2, 1, PAGE_SIZE, 1, 16), np.float32)
    rows = np.ones((4, 1, 16), np.float32)
    with pytest.raises(Exception, match=complaint):
        ops.store(
            pool, DType.float32, rows, rows, layer, np.array(table), lengths, starts
        )
