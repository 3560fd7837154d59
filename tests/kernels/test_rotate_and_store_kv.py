"""Compares rotary embedding and the storage of keys and values with NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import BufferType, DeviceRef, Graph, TensorType

from mllama.kernels.dispatch import mojo_package, uses_custom_ops
from mllama.kernels.ops.attention import (
    MOJO_PACKAGE,
    PAGE_SIZE,
    rotate_and_store_kv,
    stored_head_dim,
)
from tests.kernels.image_attention import from_cache, layer_index, to_cache

Array = np.ndarray

HEADS, KV_HEADS = 6, 2
POSITIONS = 300
KINDS = ((16, DType.float32), (24, DType.int8), (128, DType.bfloat16))
"""Widths of heads and data types of caches for which the tests' graph has an op."""

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k[0]}_{k[1].name}")


class Ops:
    """A graph with the op for all kinds; the others get no tokens."""

    def __init__(self) -> None:
        cpu = DeviceRef.CPU()
        types: list[Any] = []
        for index, (head_dim, dtype) in enumerate(KINDS):
            width = (HEADS + 2 * KV_HEADS) * head_dim
            stored = stored_head_dim(head_dim, dtype)
            pages, layers = f"pages_{index}", f"layers_{index}"
            types += [
                BufferType(dtype, [pages, 2, layers, PAGE_SIZE, KV_HEADS, stored], cpu),
                TensorType(DType.float32, [f"tokens_{index}", width], cpu),
                TensorType(DType.float32, [f"positions_{index}", head_dim], cpu),
                TensorType(DType.uint32, [], cpu),
                TensorType(
                    DType.uint32, [f"requests_{index}", f"columns_{index}"], cpu
                ),
                TensorType(DType.uint32, [f"offsets_{index}"], cpu),
                TensorType(DType.uint32, [f"lengths_{index}"], cpu),
            ]
        self._width = len(types) // len(KINDS)
        with Graph(
            "rotate_and_store",
            input_types=types,
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        ) as graph:
            outputs = []
            for start in range(0, len(types), self._width):
                cache, *others = graph.inputs[start : start + self._width]
                qkv, freqs, layer, table, offsets, lengths = (v.tensor for v in others)
                outputs.append(
                    rotate_and_store_kv(
                        qkv,
                        cache.buffer,
                        layer,
                        freqs,
                        heads=HEADS,
                        table=table,
                        token_offsets=offsets,
                        cache_lengths=lengths,
                    )
                )
            graph.output(*outputs)
        self._model: Model = InferenceSession(devices=[CPU()]).load(graph)

    def __call__(
        self,
        kind: tuple[int, DType],
        cache: Buffer,
        qkv: Array,
        freqs: Array,
        layer: int,
        table: Array,
        lengths: Sequence[int],
        cached: Sequence[int],
    ) -> Array:
        """Stores in the cache and returns the queries."""
        inputs: list[Any] = []
        for each in KINDS:
            head_dim, dtype = each
            if each == kind:
                arrays = [
                    qkv,
                    freqs,
                    layer_index(layer),
                    table.astype(np.uint32),
                    np.cumsum([0, *lengths], dtype=np.uint32),
                    np.array(cached, np.uint32),
                ]
                inputs += [cache, *arrays]
                continue
            empty = np.zeros((1, 2, 1, PAGE_SIZE, KV_HEADS, head_dim), np.float32)
            inputs += [
                to_cache(empty, dtype),
                np.zeros((0, (HEADS + 2 * KV_HEADS) * head_dim), np.float32),
                np.zeros((1, head_dim), np.float32),
                layer_index(0),
                np.zeros((0, 1), np.uint32),
                np.zeros(1, np.uint32),
                np.zeros(0, np.uint32),
            ]
        outputs = self._model.execute(
            *(
                value
                if isinstance(value, Buffer)
                else Buffer.from_numpy(np.ascontiguousarray(value))
                if value.shape
                else Buffer.scalar(int(value), DType.uint32)
                for value in inputs
            )
        )
        return np.array(outputs[KINDS.index(kind)].to_numpy())


@pytest.fixture(scope="module")
def ops() -> Ops:
    return Ops()


def rotary(rng: np.random.Generator, head_dim: int) -> Array:
    """Returns a table of cosines and sines, side by side for each pair."""
    angles = rng.uniform(0, 7, (POSITIONS, head_dim // 2))
    table = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return table.reshape(POSITIONS, head_dim).astype(np.float32)


def rotated(vectors: Array, angles: Array) -> Array:
    """Returns vectors ``[heads, head dim]``, turned by the angles of a position."""
    first, second = np.split(vectors, 2, axis=-1)
    cosine, sine = angles[0::2], angles[1::2]
    return np.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


@each_kind
def test_queries_keys_and_values_equal_those_of_numpy(
    ops: Ops, kind: tuple[int, DType]
) -> None:
    """Requests begin within a page and cross into others; one has no new tokens, one
    has more than a task takes."""
    head_dim, dtype = kind
    rng = np.random.default_rng(3)
    lengths, cached = [1, 0, 5, 150], [200, 7, 126, 70]
    table = np.array([[3, 1, 0], [5, 5, 5], [2, 4, 0], [6, 7, 0]])
    shape = (8, 2, 2, PAGE_SIZE, KV_HEADS, head_dim)
    before = to_cache(rng.normal(0, 1, shape).astype(np.float32), dtype)
    cache = from_cache(before)
    width = (HEADS + 2 * KV_HEADS) * head_dim
    qkv = rng.normal(0, 1, (sum(lengths), width)).astype(np.float32)
    freqs = rotary(rng, head_dim)
    queries = ops(kind, before, qkv, freqs, 1, table, lengths, cached)
    token = 0
    written = np.zeros(cache.shape, bool)
    for length, start, pages in zip(lengths, cached, table, strict=True):
        for position in range(start, start + length):
            vectors = qkv[token].reshape(-1, head_dim)
            np.testing.assert_allclose(
                queries[token],
                rotated(vectors[:HEADS], freqs[position]),
                rtol=1e-5,
                atol=1e-6,
            )
            page, place = pages[position // PAGE_SIZE], position % PAGE_SIZE
            keys, values = np.split(vectors[HEADS:], 2)
            cache[page, 0, 1, place] = rotated(keys, freqs[position])
            cache[page, 1, 1, place] = values
            written[page, :, 1, place] = True
            token += 1
    actual = from_cache(before)
    np.testing.assert_array_equal(actual[~written], cache[~written])
    # Half a level.
    step = {DType.float32: 1e-6, DType.bfloat16: 2.0**-8, DType.int8: 0.501 / 127}
    largest = np.abs(cache).max(axis=-1, keepdims=True)
    assert (np.abs(actual - cache) <= step[dtype] * largest + 1e-6)[written].all()


@each_kind
def test_no_tokens_change_nothing(ops: Ops, kind: tuple[int, DType]) -> None:
    head_dim, dtype = kind
    cache = to_cache(
        np.ones((1, 2, 1, PAGE_SIZE, KV_HEADS, head_dim), np.float32), dtype
    )
    qkv = np.zeros((0, (HEADS + 2 * KV_HEADS) * head_dim), np.float32)
    freqs = rotary(np.random.default_rng(0), head_dim)
    queries = ops(kind, cache, qkv, freqs, 0, np.zeros((1, 1)), [0], [POSITIONS])
    assert queries.shape == (0, HEADS, head_dim)
    np.testing.assert_allclose(from_cache(cache), 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cached": [POSITIONS - 1]}, "beyond the rotary table"),
        ({"layer": 1}, "doesn't have this layer"),
        ({"table": np.array([[9, 9, 9]])}, "beyond the cache"),
        (
            {"table": np.array([[0]]), "cached": [127]},
            "more tokens than its page table",
        ),
        ({"lengths": [3]}, "don't cover"),
        ({"cached": [0, 0]}, "differ in number"),
    ],
)
def test_what_does_not_fit_is_refused(
    ops: Ops, changed: dict[str, Any], message: str
) -> None:
    kind = head_dim, dtype = KINDS[0]
    cache = np.zeros((1, 2, 1, PAGE_SIZE, KV_HEADS, head_dim), np.float32)
    arguments: dict[str, Any] = {
        "layer": 0,
        "table": np.zeros((1, 3)),
        "lengths": [2],
        "cached": [5],
    }
    qkv = np.zeros((2, (HEADS + 2 * KV_HEADS) * head_dim), np.float32)
    freqs = rotary(np.random.default_rng(0), head_dim)
    with pytest.raises(Exception, match=message):
        ops(kind, to_cache(cache, dtype), qkv, freqs, **arguments | changed)
