"""A graph of the ops on the image cache, and batches with their expected attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import BufferType, DeviceRef, Graph, TensorType

from mllama.kernels.dispatch import mojo_package
from mllama.kernels.ops.attention import (
    MOJO_PACKAGE,
    PAGE_SIZE,
    SCALE_BYTES,
    image_attention,
    store_kv,
    stored_head_dim,
)
from mllama.utils.bfloat16 import to_bfloat16

Array = np.ndarray

EPSILON = 1e-5
KINDS = (
    (16, DType.float32),
    (24, DType.float32),
    (24, DType.int8),
    (64, DType.bfloat16),
    (128, DType.float32),
    (128, DType.bfloat16),
    (128, DType.int8),
)
"""Head widths and data types of the cache for which the tests' graph has ops."""


@dataclass(frozen=True)
class Batch:
    """Query tokens, and the image cache that they attend to."""

    query: Array
    norm_weight: Array
    cache: Array
    layer: int
    table: Array
    lengths: Sequence[int]
    counts: Sequence[int]

    def expected_output(self) -> Array:
        """Returns the expected attention, computed in float64."""
        _, heads, head_dim = self.query.shape
        query = self.query.astype(np.float64)
        mean = np.square(query).mean(-1, keepdims=True)
        query = query / np.sqrt(mean + EPSILON) * self.norm_weight
        result = np.zeros(query.shape)
        token = 0
        for length, count, pages in zip(
            self.lengths, self.counts, self.table, strict=True
        ):
            used_pages = pages[: -(-count // PAGE_SIZE)]
            keys, values = (
                np.repeat(
                    self.cache[used_pages, side, self.layer]
                    .reshape(-1, *self.cache.shape[-2:])[:count]
                    .astype(np.float64),
                    heads // self.cache.shape[-2],
                    axis=1,
                )
                for side in (0, 1)
            )
            own_tokens = slice(token, token + length)
            token += length
            if not count:
                continue
            scores = query[own_tokens].transpose(1, 0, 2) @ keys.transpose(1, 2, 0)
            scores *= head_dim**-0.5
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            result[own_tokens] = (weights @ values.transpose(1, 0, 2)).transpose(
                1, 0, 2
            )
        return result


def offsets(lengths: Sequence[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.uint32)


def to_int8(values: Array) -> Array:
    """Returns values in int8, each vector followed by the bytes of its scale."""
    with np.errstate(all="ignore"):
        largest = np.abs(values).max(-1, keepdims=True)
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
        is_finite = np.isfinite(largest)
        levels = np.rint(np.where(is_finite, values * inverse, 0))
    scale_bytes = (largest / np.float32(127)).astype(np.float32).view(np.int8)
    return np.concatenate([levels.astype(np.int8), scale_bytes], axis=-1)


def from_int8(content: Array) -> Array:
    """Returns the values that :func:`to_int8` rounded."""
    scales = np.ascontiguousarray(content[..., -SCALE_BYTES:]).view(np.float32)
    with np.errstate(invalid="ignore"):
        return content[..., :-SCALE_BYTES].astype(np.float32) * scales


def to_cache(values: Array, dtype: DType) -> Buffer:
    if dtype is DType.bfloat16:
        return Buffer.from_numpy(to_bfloat16(values)).view(dtype, values.shape)
    if dtype is DType.int8:
        return Buffer.from_numpy(to_int8(values))
    return Buffer.from_numpy(np.array(values))


def from_cache(buffer: Buffer) -> Array:
    if buffer.dtype is DType.bfloat16:
        bits = buffer.view(DType.uint16, buffer.shape).to_numpy()
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if buffer.dtype is DType.int8:
        return from_int8(buffer.to_numpy())
    return np.array(buffer.to_numpy())


def layer_index(layer: int) -> Array:
    return np.array(layer, np.uint32)


class ImageOps:
    """A graph with the ops for all head widths and data types of the cache.

    Each call runs those of one kind; the others get empty inputs.
    """

    def __init__(self) -> None:
        cpu = DeviceRef.CPU()
        inputs: list[Any] = []
        for index, (head_dim, dtype) in enumerate(KINDS):

            def dims(*names: str, index: int = index) -> list[str]:
                return [f"{name}_{index}" for name in names]

            cache = BufferType(
                dtype,
                [
                    *dims("pages"),
                    2,
                    *dims("layers"),
                    PAGE_SIZE,
                    *dims("kv_heads"),
                    stored_head_dim(head_dim, dtype),
                ],
                cpu,
            )
            inputs += [
                cache,
                TensorType(DType.float32, [*dims("tokens", "heads"), head_dim], cpu),
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
                cache, query, norm, layer, table, tokens, keys, *new = graph.inputs[
                    start : start + self.width
                ]
                key, value, image_table, patch_offsets, starts = (v.tensor for v in new)
                store_kv(
                    cache.buffer,
                    key,
                    value,
                    layer.tensor,
                    table=image_table,
                    token_offsets=patch_offsets,
                    starts=starts,
                )
                outputs.append(
                    image_attention(
                        query.tensor,
                        norm.tensor,
                        cache.buffer,
                        layer.tensor,
                        table=table.tensor,
                        segment_offsets=tokens.tensor,
                        image_offsets=keys.tensor,
                        epsilon=EPSILON,
                    )
                )
            graph.output(*outputs)
        self.model: Model = InferenceSession(devices=[CPU()]).load(graph)

    def _run(self, kind: tuple[int, DType], given: dict[int, Any]) -> Array:
        inputs = []
        for head_dim, dtype in KINDS:
            empty: list[Any] = [
                to_cache(
                    np.zeros((1, 2, 1, PAGE_SIZE, 1, head_dim), np.float32), dtype
                ),
                np.zeros((0, 1, head_dim), np.float32),
                np.zeros(head_dim, np.float32),
                layer_index(0),
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
                for index in (7, 8):
                    empty[index] = np.zeros((0, kv_heads, head_dim), np.float32)
                for index, value in given.items():
                    empty[index] = value
            inputs += [
                Buffer.from_numpy(np.ascontiguousarray(value))
                if isinstance(value, np.ndarray) and value.shape
                else Buffer.scalar(int(value), DType.uint32)
                if isinstance(value, np.ndarray)
                else value
                for value in empty
            ]
        return self.model.execute(*inputs)[KINDS.index(kind)].to_numpy()

    def attend(self, batch: Batch, dtype: DType, **changed: Any) -> Array:
        given = {
            0: to_cache(batch.cache, dtype),
            1: batch.query,
            2: batch.norm_weight,
            3: layer_index(batch.layer),
            4: batch.table.astype(np.uint32),
            5: offsets(batch.lengths),
            6: offsets(batch.counts),
        }
        return self._run((batch.query.shape[2], dtype), given)

    def store(
        self,
        cache: Array,
        dtype: DType,
        keys: Array,
        values: Array,
        layer: int,
        table: Array,
        lengths: Sequence[int],
        starts: Sequence[int],
    ) -> Array:
        """Returns the cache after the op has stored keys and values."""
        buffer = to_cache(cache, dtype)
        given = {
            0: buffer,
            1: np.zeros((0, cache.shape[4], cache.shape[5]), np.float32),
            3: layer_index(layer),
            7: keys,
            8: values,
            9: table.astype(np.uint32),
            10: offsets(lengths),
            11: np.array(starts, np.uint32),
        }
        self._run((cache.shape[5], dtype), given)
        return from_cache(buffer)


def random_batch(
    rng: np.random.Generator,
    kind: tuple[int, DType],
    lengths: Sequence[int],
    counts: Sequence[int],
    *,
    gqa_ratio: int = 4,
    kv_heads: int = 2,
    shared: Sequence[int] = (),
) -> Batch:
    """Returns a batch with random pages in random order.

    Args:
        rng: The random generator.
        kind: Head width and data type of the cache.
        lengths: Query tokens of each segment.
        counts: Keys of each segment.
        gqa_ratio: Query heads of a KV head.
        kv_heads: Number of KV heads.
        shared: Segments that read the pages of the first segment.
    """
    head_dim, dtype = kind
    used = [-(-count // PAGE_SIZE) for count in counts]
    num_pages = sum(used) + 3
    pages = rng.permutation(num_pages)
    table = np.full((len(counts), max(used) + 1), num_pages - 1)
    for row, number, end in zip(table, used, np.cumsum(used), strict=True):
        row[:number] = pages[end - number : end]
    for segment in shared:
        table[segment] = table[0]
    cache = rng.normal(0, 1, (num_pages, 2, 3, PAGE_SIZE, kv_heads, head_dim)).astype(
        np.float32
    )
    if dtype is not DType.float32:
        cache = from_cache(to_cache(cache, dtype))
    return Batch(
        query=rng.normal(0, 3, (sum(lengths), kv_heads * gqa_ratio, head_dim)).astype(
            np.float32
        ),
        norm_weight=rng.normal(1, 0.3, head_dim).astype(np.float32),
        cache=cache,
        layer=1,
        table=table,
        lengths=lengths,
        counts=counts,
    )
