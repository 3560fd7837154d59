"""The own attention operations in graphs: among patches, on the image pool and on the
KV cache."""

from __future__ import annotations

from typing import Final

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorType, TensorValue, ops

from mllama.kernels.dispatch import has_bfloat16_products, uses_custom_ops, vector_width

MOJO_PACKAGE: Final = "attention"
"""The folder of ``mllama/kernels`` with them."""

PAGE_SIZE: Final = 128
"""Rows of a page that they read, the size that MAX's paged kernels are tuned for."""


def supports_heads(head_dim: int, dtype: DType, device: DeviceRef) -> bool:
    """Whether they can attend with heads of a width; else it is left to MAX's.

    Args:
        head_dim: Width of a head.
        dtype: Element type of queries, keys and values.
        device: Where it is done.
    """
    return uses_custom_ops(device) and dtype is DType.float32 and head_dim % 8 == 0


def supports(head_dim: int, dtype: DType, pages: DType, device: DeviceRef) -> bool:
    """Whether they can attend to keys and values in pages; else it is left to MAX's.

    Args:
        head_dim: Width of a head.
        dtype: Element type of queries, keys and values.
        pages: Element type of the pages.
        device: Where it is done.
    """
    is_known = pages in (DType.float32, DType.bfloat16)
    return is_known and supports_heads(head_dim, dtype, device)


def _parameters(head_dim: int) -> dict[str, bool | int | str | DType]:
    """Of an operation that attends.

    Heads that are no whole vectors of AVX-512 are left to those of AVX2.
    """
    lanes = vector_width()
    return {"head_dim": head_dim, "lanes": 8 if head_dim % lanes else lanes}


def patch_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    head_dim: int,
    *,
    rounds: bool = False,
) -> TensorValue:
    """Attention among patches, of which padding comes last and is seen by real ones
    alone.

    Args:
        query: float32 ``[images, rows, heads * head dim]``.
        key: As ``query``.
        value: As ``query``.
        real_rows: Any tensor ``[real rows]``; only its length counts.
        head_dim: Width of a head; scores are divided by its root.
        rounds: Whether queries, keys, values and weights may be rounded to bfloat16.
            They are where that is faster; sums are of float32.

    Returns:
        As ``query``.
    """
    parameters = _parameters(head_dim)
    pairs = rounds and parameters["lanes"] == 16 and has_bfloat16_products()
    return ops.custom(
        "mllama_padded_attention",
        query.device,
        [
            query,
            key,
            value,
            real_rows,
            ops.constant(head_dim**-0.5, DType.float32, DeviceRef.CPU()),
        ],
        [query.type],
        parameters={**parameters, "pairs": pairs},
    )[0].tensor


def image_attention(
    query: TensorValue,
    norm_weight: TensorValue,
    pool: BufferValue,
    layer_idx: TensorValue,
    *,
    table: TensorValue,
    segment_offsets: TensorValue,
    image_offsets: TensorValue,
    epsilon: float,
) -> TensorValue:
    """RMSNorm of the queries, then their attention to pages of the pool.

    Args:
        query: float32 ``[rows, heads, head dim]``.
        norm_weight: float32 ``[head dim]``.
        pool: float32 or bfloat16 ``[pages, 2, layers, 128, kv heads, head dim]``.
        layer_idx: uint32 scalar on the host.
        table: uint32 ``[segments, columns]``, the pages that a segment reads.
        segment_offsets: uint32 ``[segments + 1]``, where segments begin in the rows.
        image_offsets: uint32 ``[segments + 1]``, running sum of the rows of the pool
            that each reads.
        epsilon: Of the norm.

    Returns:
        float32 of the queries' shape.  Rows that read nothing are zeros.
    """
    head_dim = int(query.shape[2])
    cpu = DeviceRef.CPU()
    return ops.inplace_custom(
        "mllama_image_attention",
        device=query.device,
        values=[
            pool,
            query,
            norm_weight,
            segment_offsets,
            image_offsets,
            table,
            layer_idx,
            ops.constant(epsilon, DType.float32, cpu),
            ops.constant(head_dim**-0.5, DType.float32, cpu),
        ],
        out_types=[TensorType(DType.float32, query.shape, query.device)],
        parameters=_parameters(head_dim),
    )[0].tensor


def causal_attention(
    query: TensorValue,
    cache: BufferValue,
    layer_idx: TensorValue,
    *,
    table: TensorValue,
    row_offsets: TensorValue,
    cache_lengths: TensorValue,
) -> TensorValue:
    """Attention of each request's new rows to the rows up to their own.

    Args:
        query: float32 ``[rows, heads, head dim]``, rotated.
        cache: float32 or bfloat16 ``[pages, 2, layers, 128, kv heads, head dim]``, the
            new rows' keys and values among them.
        layer_idx: uint32 scalar on the host.
        table: uint32 ``[requests, columns]``, the pages of a request.
        row_offsets: uint32 ``[requests + 1]``, where requests begin in the rows.
        cache_lengths: uint32 ``[requests]``, rows of each before the new ones.

    Returns:
        float32 of the queries' shape.
    """
    head_dim = int(query.shape[2])
    return ops.inplace_custom(
        "mllama_causal_attention",
        device=query.device,
        values=[
            cache,
            query,
            row_offsets,
            cache_lengths,
            table,
            layer_idx,
            ops.constant(head_dim**-0.5, DType.float32, DeviceRef.CPU()),
        ],
        out_types=[query.type],
        parameters=_parameters(head_dim),
    )[0].tensor


def store_image_kv(
    pool: BufferValue,
    keys: TensorValue,
    values: TensorValue,
    layer_idx: TensorValue,
    *,
    table: TensorValue,
    row_offsets: TensorValue,
    starts: TensorValue,
) -> None:
    """Writes keys and values into pages of the pool, rounded to its type.

    Args:
        pool: As in :func:`image_attention`.
        keys: float32 ``[rows, kv heads, head dim]``.
        values: Of the same shape.
        layer_idx: uint32 scalar on the host.
        table: uint32 ``[images, columns]``, the pages of an image.
        row_offsets: uint32 ``[images + 1]``, where images begin in the rows.
        starts: uint32 ``[images]``, the place of an image's first row in its pages.
    """
    ops.inplace_custom(
        "mllama_image_store",
        device=keys.device,
        values=[pool, keys, values, row_offsets, starts, table, layer_idx],
        parameters={"head_dim": int(keys.shape[2])},
    )
