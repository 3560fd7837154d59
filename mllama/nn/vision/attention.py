"""Attention among an image's patches: a custom op on a CPU, flash attention on a GPU.

Where neither is supported (bfloat16 on a CPU, other CPUs), MAX's basic ops compute it.
"""

from __future__ import annotations

from collections.abc import Callable

from max.dtype import DType
from max.graph import TensorValue, ops
from max.nn.attention.mask_config import MHAMaskVariant
from max.nn.kernels import flash_attention_gpu

from mllama.kernels.ops.attention import patch_attention, supports_heads

_FLASH_HEAD_DIMS = (64, 128, 256)
"""Widths of a head that MAX's flash attention supports.

On an H200, its result was wrong for 80, the width of the published checkpoints, and
right for 128."""


def padded_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_patches: TensorValue,
    padding_patches: TensorValue,
    head_dim: int,
    *,
    allow_bfloat16: bool = False,
) -> TensorValue:
    """Computes the attention among patches, of which padding comes last.

    Real patches attend to all patches, padding attends to real patches alone.

    Args:
        query: ``[images, patches, heads * head dim]``.
        key: The keys, of the same shape.
        value: The values, of the same shape.
        real_patches: Any tensor ``[real patches]``; only its length counts.
        padding_patches: Any tensor ``[padding patches]``; only its length counts.
        head_dim: Width of a head; scores are divided by its square root.
        allow_bfloat16: Whether factors may be rounded to bfloat16, as in
            :func:`~mllama.kernels.ops.attention.patch_attention`.

    Returns:
        The attention's output, of the same shape.

    Raises:
        ValueError: If the shapes differ, or the width isn't a multiple of ``head_dim``.
    """
    if not query.shape == key.shape == value.shape:
        raise ValueError(f"shapes {query.shape}, {key.shape}, {value.shape} differ")
    width = int(query.shape[-1])
    if width % head_dim:
        raise ValueError(f"width {width} is not a multiple of head_dim {head_dim}")
    if supports_heads(head_dim, query.dtype, query.device):
        return patch_attention(
            query, key, value, real_patches, head_dim, allow_bfloat16=allow_bfloat16
        )
    patches = (real_patches, padding_patches)
    has_flash = query.device.is_gpu() and query.dtype is DType.bfloat16
    if has_flash and head_dim <= _FLASH_HEAD_DIMS[-1]:
        return flash_attention(query, key, value, *patches, head_dim)
    return max_attention(query, key, value, *patches, head_dim)


def flash_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_patches: TensorValue,
    padding_patches: TensorValue,
    head_dim: int,
) -> TensorValue:
    """Computes :func:`padded_attention` on a GPU with MAX's flash attention.

    Zeros pad the heads to a supported width; they don't change the scores, and the
    result is cut to the original width.
    """
    images, patches, width = query.shape
    heads = int(width) // head_dim
    padding = next(w for w in _FLASH_HEAD_DIMS if w >= head_dim) - head_dim

    def split(states: TensorValue) -> TensorValue:
        states = ops.reshape(states, [images, patches, heads, head_dim])
        return ops.pad(states, [0] * 7 + [padding]) if padding else states

    def attention(
        query: TensorValue, key: TensorValue, value: TensorValue
    ) -> TensorValue:
        return flash_attention_gpu(
            query, key, value, MHAMaskVariant.NULL_MASK, head_dim**-0.5
        )

    result = _attend_without_padding_pairs(
        split(query),
        split(key),
        split(value),
        real_patches,
        padding_patches,
        1,
        attention,
    ).rebind([images, patches, heads, head_dim + padding])
    return ops.reshape(result[:, :, :, :head_dim], [images, patches, width])


def max_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_patches: TensorValue,
    padding_patches: TensorValue,
    head_dim: int,
) -> TensorValue:
    """Computes :func:`padded_attention` with two basic attentions.

    MAX fuses each into flash attention.
    """
    images, patches, width = query.shape
    heads, scale = int(width) // head_dim, head_dim**-0.5

    def split(states: TensorValue) -> TensorValue:
        shape = [images, patches, heads, head_dim]
        return ops.transpose(ops.reshape(states, shape), 1, 2)

    def attention(
        query: TensorValue, key: TensorValue, value: TensorValue
    ) -> TensorValue:
        scores = query @ ops.transpose(key, -1, -2)
        return ops.softmax(scores * scale) @ value

    result = _attend_without_padding_pairs(
        split(query),
        split(key),
        split(value),
        real_patches,
        padding_patches,
        2,
        attention,
    )
    result = ops.transpose(result, 1, 2).rebind([images, patches, heads, head_dim])
    return ops.reshape(result, [images, patches, width])


def _attend_without_padding_pairs(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_patches: TensorValue,
    padding_patches: TensorValue,
    axis: int,
    attention: Callable[[TensorValue, TensorValue, TensorValue], TensorValue],
) -> TensorValue:
    """Attends from real patches to all, and from padding patches to real ones.

    Args:
        query: The queries, of rank 4.
        key: The keys, of rank 4.
        value: The values, of rank 4.
        real_patches: Any tensor ``[real patches]``; only its length counts.
        padding_patches: Any tensor ``[padding patches]``; only its length counts.
        axis: The dimension of the patches.
        attention: Computes the attention of queries to keys and values.
    """
    real, padding = real_patches.shape[0], padding_patches.shape[0]
    count = TensorValue(real)
    before = [slice(None)] * axis
    first = (*before, (slice(0, count), real))
    last = (*before, (slice(count, None), padding))
    return ops.concat(
        [
            attention(query[first], key, value),
            attention(query[last], key[first], value[first]),
        ],
        axis=axis,
    )
