"""Attention among an image's patches: an own operation where it runs.

Elsewhere (a GPU, bfloat16, another CPU) MAX's operations do the same.
"""

from __future__ import annotations

from max.graph import TensorValue, ops

from mllama.kernels.attention import attend_to_patches, suits_heads


def padded_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    padding_rows: TensorValue,
    head_dim: int,
) -> TensorValue:
    """Attends: real rows to all rows, padding rows, which come last, to the real ones.

    Args:
        query: ``[images, rows, heads * head dim]``.
        key: As ``query``.
        value: As ``query``.
        real_rows: Any tensor ``[real rows]``; only its length counts.
        padding_rows: Any tensor ``[padding rows]``; only its length counts.
        head_dim: Width of a head; scores are divided by its root.

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
    if suits_heads(head_dim, query.dtype, query.device):
        return attend_to_patches(query, key, value, real_rows, head_dim)
    return attention_of_max(query, key, value, real_rows, padding_rows, head_dim)


def attention_of_max(
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

    query, key, value = split(query), split(key), split(value)
    real, padding = real_rows.shape[0], padding_rows.shape[0]
    count = TensorValue(real)
    first = (slice(0, count), real)
    last = (slice(count, None), padding)
    attended = ops.concat(
        [
            attention(query[:, :, first], key, value),
            attention(query[:, :, last], key[:, :, first], value[:, :, first]),
        ],
        axis=2,
    )
    attended = ops.transpose(attended, 1, 2).rebind([images, rows, heads, head_dim])
    return ops.reshape(attended, [images, rows, width])
