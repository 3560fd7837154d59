"""Adds custom attention ops to a graph: among patches, to cached images and to the KV
cache.

Pages of both caches are ``[pages, 2, layers, PAGE_SIZE, kv heads, stored head dim]``,
of a data type that :func:`supports` accepts; see :func:`stored_head_dim`.
"""

from __future__ import annotations

from typing import Final

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorType, TensorValue, ops

from mllama.kernels.dispatch import (
    HEAD_DIM_MULTIPLE,
    simd_width,
    supports_bfloat16,
    uses_custom_ops,
)

MOJO_PACKAGE: Final = "attention"
"""Mojo package of these ops, for graphs that use them."""

PAGE_SIZE: Final = 128
"""Tokens of a page, the size that MAX's paged kernels are tuned for."""

SCALE_BYTES: Final = 4
"""Size of the float32 scale that follows the values of a head in int8."""


def supports_heads(head_dim: int, dtype: DType, device: DeviceRef) -> bool:
    """Returns True if the ops support attention with heads of this width.

    Args:
        head_dim: Width of a head.
        dtype: Data type of queries, keys and values.
        device: Device of the attention.
    """
    return (
        uses_custom_ops(device)
        and dtype is DType.float32
        and head_dim % HEAD_DIM_MULTIPLE == 0
    )


def supports(head_dim: int, dtype: DType, page_dtype: DType, device: DeviceRef) -> bool:
    """Returns True if the ops support attention to keys and values in pages.

    Args:
        head_dim: Width of a head.
        dtype: Data type of queries, keys and values.
        page_dtype: Data type of the pages.
        device: Device of the attention.
    """
    is_supported = page_dtype in (DType.float32, DType.bfloat16, DType.int8)
    return is_supported and supports_heads(head_dim, dtype, device)


def stored_head_dim(head_dim: int, page_dtype: DType) -> int:
    """Returns the elements of a page that a head's key or value of a token takes.

    In int8 they include the bytes of its scale.

    Args:
        head_dim: Width of a head.
        page_dtype: Data type of the pages.
    """
    return head_dim + (SCALE_BYTES if page_dtype is DType.int8 else 0)


def _parameters(head_dim: int) -> dict[str, bool | int | str | DType]:
    """Returns the Mojo parameters of an attention op.

    Heads that don't fill whole vectors of AVX-512 use AVX2.
    """
    width = simd_width()
    return {"head_dim": head_dim, "simd_width": 8 if head_dim % width else width}


def patch_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_patches: TensorValue,
    head_dim: int,
    *,
    allow_bfloat16: bool = False,
) -> TensorValue:
    """Computes the attention among patches, of which padding comes last.

    Real patches attend to all patches, padding attends to real patches alone.

    Args:
        query: float32 ``[images, patches, heads * head dim]``.
        key: float32 of the same shape.
        value: float32 of the same shape.
        real_patches: Any tensor ``[real patches]``; only its length counts.
        head_dim: Width of a head; scores are divided by its square root.
        allow_bfloat16: Whether queries, keys, values and softmax weights may be rounded
            to bfloat16.  They are if this CPU multiplies bfloat16 faster; sums stay
            float32.

    Returns:
        float32 of the same shape.
    """
    parameters = _parameters(head_dim)
    use_bfloat16 = (
        allow_bfloat16 and parameters["simd_width"] == 16 and supports_bfloat16()
    )
    return ops.custom(
        "mllama_patch_attention",
        query.device,
        [
            query,
            key,
            value,
            real_patches,
            ops.constant(head_dim**-0.5, DType.float32, DeviceRef.CPU()),
        ],
        [query.type],
        parameters={**parameters, "use_bfloat16": use_bfloat16},
    )[0].tensor


def image_attention(
    query: TensorValue,
    norm_weight: TensorValue,
    cache: BufferValue,
    layer_idx: TensorValue,
    *,
    table: TensorValue,
    segment_offsets: TensorValue,
    image_offsets: TensorValue,
    epsilon: float,
) -> TensorValue:
    """Applies RMSNorm to queries and computes their attention to the image cache.

    A segment is a range of successive tokens that attend to the same image tokens.

    Args:
        query: float32 ``[tokens, heads, head dim]``.
        norm_weight: float32 ``[head dim]``.
        cache: Pages of the image cache.
        layer_idx: uint32 scalar on the host.
        table: uint32 ``[segments, columns]``, the pages that each segment reads.
        segment_offsets: uint32 ``[segments + 1]``, the first token of each segment.
        image_offsets: uint32 ``[segments + 1]``, running sum of the image tokens that
            each segment reads.
        epsilon: Epsilon of the norm.

    Returns:
        float32 of the queries' shape.  Tokens that read nothing get zeros.
    """
    head_dim = int(query.shape[2])
    cpu = DeviceRef.CPU()
    return ops.inplace_custom(
        "mllama_image_attention",
        device=query.device,
        values=[
            cache,
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
    token_offsets: TensorValue,
    cache_lengths: TensorValue,
) -> TensorValue:
    """Computes the attention of each request's new tokens to those up to their own.

    Args:
        query: float32 ``[tokens, heads, head dim]``, with rotary embeddings.
        cache: Pages that already contain the new tokens' keys and values.
        layer_idx: uint32 scalar on the host.
        table: uint32 ``[requests, columns]``, the pages of each request.
        token_offsets: uint32 ``[requests + 1]``, the first token of each request.
        cache_lengths: uint32 ``[requests]``, tokens of each before the new ones.

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
            token_offsets,
            cache_lengths,
            table,
            layer_idx,
            ops.constant(head_dim**-0.5, DType.float32, DeviceRef.CPU()),
        ],
        out_types=[query.type],
        parameters=_parameters(head_dim),
    )[0].tensor


def store_kv(
    cache: BufferValue,
    keys: TensorValue,
    values: TensorValue,
    layer_idx: TensorValue,
    *,
    table: TensorValue,
    token_offsets: TensorValue,
    starts: TensorValue,
) -> None:
    """Writes keys and values of new tokens, such as the patches of images, into pages,
    rounded to their data type.

    Args:
        cache: Pages.
        keys: float32 ``[tokens, kv heads, head dim]``.
        values: float32 of the same shape.
        layer_idx: uint32 scalar on the host.
        table: uint32 ``[ranges, columns]``, the pages of each range.
        token_offsets: uint32 ``[ranges + 1]``, the first token of each range.
        starts: uint32 ``[ranges]``, the position of each first token in its pages.
    """
    ops.inplace_custom(
        "mllama_store_kv",
        device=keys.device,
        values=[cache, keys, values, token_offsets, starts, table, layer_idx],
        parameters={"head_dim": int(keys.shape[2])},
    )


def rotate_and_store_kv(
    qkv: TensorValue,
    cache: BufferValue,
    layer_idx: TensorValue,
    freqs_cis: TensorValue,
    *,
    heads: int,
    table: TensorValue,
    token_offsets: TensorValue,
    cache_lengths: TensorValue,
) -> TensorValue:
    """Applies rotary embedding to queries and keys, and writes keys and values into
    pages, rounded to their data type.

    Args:
        qkv: float32 ``[tokens, (heads + 2 * kv heads) * head dim]``.
        cache: Pages.
        layer_idx: uint32 scalar on the host.
        freqs_cis: float32 ``[positions, head dim]``, cosine and sine of each pair of
            dimensions.
        heads: Number of heads of the queries.
        table: uint32 ``[requests, columns]``, the pages of each request.
        token_offsets: uint32 ``[requests + 1]``, the first token of each request.
        cache_lengths: uint32 ``[requests]``, tokens of each before the new ones.

    Returns:
        The queries, float32 ``[tokens, heads, head dim]``.
    """
    head_dim = int(freqs_cis.shape[1])
    return ops.inplace_custom(
        "mllama_rotate_and_store_kv",
        device=qkv.device,
        values=[cache, qkv, freqs_cis, token_offsets, cache_lengths, table, layer_idx],
        out_types=[
            TensorType(DType.float32, [qkv.shape[0], heads, head_dim], qkv.device)
        ],
        parameters={"head_dim": head_dim},
    )[0].tensor
