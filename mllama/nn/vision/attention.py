"""Attention among an image's patches: an own operation on a CPU where it runs, MAX's
flash attention on a GPU.

Elsewhere (bfloat16 on a CPU, another CPU) MAX's simple operations do the same.
"""

from __future__ import annotations

from collections.abc import Callable

from max.dtype import DType
from max.graph import TensorValue, ops
from max.nn.attention.mask_config import MHAMaskVariant
from max.nn.kernels import flash_attention_gpu

from mllama.kernels.ops.attention import patch_attention, supports_heads

_FLASH_WIDTHS = (64, 128, 256)
"""Widths of a head that MAX's flash attention is made for.  On a H200 it was wrong for
the 80 of the published checkpoints and right for 128."""


def padded_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    padding_rows: TensorValue,
    head_dim: int,
    *,
    rounds: bool = False,
) -> TensorValue:
    """Attends: real rows to all rows, padding rows, which come last, to the real ones.

    Args:
        query: ``[images, rows, heads * head dim]``.
        key: As ``query``.
        value: As ``query``.
        real_rows: Any tensor ``[real rows]``; only its length counts.
        padding_rows: Any tensor ``[padding rows]``; only its length counts.
        head_dim: Width of a head; scores are divided by its root.
        rounds: Whether factors may be rounded to bfloat16, see
            :func:`~mllama.kernels.ops.attention.patch_attention`.

    Returns:
        As ``query``.

    Raises:
        ValueError: If the shapes differ or aren't of whole heads.
    """
    if not query.shape == key.shape == value.shape:
        raise ValueError(f"shapes {query.shape}, {key.shape}, {value.shape} differ")
    width = int(query.shape[-1])
    if width % head_dim:
        raise ValueError(f"{width} is no multiple of a head of {head_dim}")
    if supports_heads(head_dim, query.dtype, query.device):
        return patch_attention(
            query, key, value, real_rows, head_dim, allow_bfloat16=rounds
        )
    rows = (real_rows, padding_rows)
    has_flash = query.device.is_gpu() and query.dtype is DType.bfloat16
    if has_flash and head_dim <= _FLASH_WIDTHS[-1]:
        return flash_attention(query, key, value, *rows, head_dim)
    return max_attention(query, key, value, *rows, head_dim)


def flash_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    padding_rows: TensorValue,
    head_dim: int,
) -> TensorValue:
    """As :func:`padded_attention`, on a GPU.

    Heads are made wider with zeros, which change no score and are cut off again.
    """
    images, rows, width = query.shape
    heads = int(width) // head_dim
    missing = next(w for w in _FLASH_WIDTHS if w >= head_dim) - head_dim

    def split(states: TensorValue) -> TensorValue:
        states = ops.reshape(states, [images, rows, heads, head_dim])
        return ops.pad(states, [0] * 7 + [missing]) if missing else states

    def attention(
        query: TensorValue, key: TensorValue, value: TensorValue
    ) -> TensorValue:
        return flash_attention_gpu(
            query, key, value, MHAMaskVariant.NULL_MASK, head_dim**-0.5
        )

    attended = _by_kind(
        split(query), split(key), split(value), real_rows, padding_rows, 1, attention
    ).rebind([images, rows, heads, head_dim + missing])
    return ops.reshape(attended[:, :, :, :head_dim], [images, rows, width])


def max_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    padding_rows: TensorValue,
    head_dim: int,
) -> TensorValue:
    """As :func:`padded_attention`: two attention calls that MAX fuses into flash
    attention."""
    images, rows, width = query.shape
    heads, scale = int(width) // head_dim, head_dim**-0.5

    def split(states: TensorValue) -> TensorValue:
        shape = [images, rows, heads, head_dim]
        return ops.transpose(ops.reshape(states, shape), 1, 2)

    def attention(
        query: TensorValue, key: TensorValue, value: TensorValue
    ) -> TensorValue:
        scores = query @ ops.transpose(key, -1, -2)
        return ops.softmax(scores * scale) @ value

    attended = _by_kind(
        split(query), split(key), split(value), real_rows, padding_rows, 2, attention
    )
    attended = ops.transpose(attended, 1, 2).rebind([images, rows, heads, head_dim])
    return ops.reshape(attended, [images, rows, width])


def _by_kind(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    padding_rows: TensorValue,
    axis: int,
    attention: Callable[[TensorValue, TensorValue, TensorValue], TensorValue],
) -> TensorValue:
    """Attention of real rows to all, and of padding rows to real ones.

    Args:
        query: Of rank 4, as are the next two.
        key: See there.
        value: See there.
        real_rows: As in :func:`padded_attention`.
        padding_rows: As there.
        axis: Which dimension is the rows.
        attention: Of queries to keys and values.
    """
    real, padding = real_rows.shape[0], padding_rows.shape[0]
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
