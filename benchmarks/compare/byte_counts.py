"""Counts the bytes that must be read from memory for each token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

_ONCE_AN_IMAGE = ("cross_attn_k_proj", "cross_attn_v_proj", "cross_attn_k_norm")
"""Tensors whose results are cached with the image."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a GGUF file: its name, parameters and bytes."""

    name: str
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class PerToken:
    """The parameters of all text layers and the head, and their size in bytes."""

    parameters: int
    nbytes: int


def tensors_of(path: Path) -> list[Tensor]:
    """Returns the tensors of a GGUF file."""
    return [
        Tensor(tensor.name, int(tensor.n_elements), int(tensor.n_bytes))
        for tensor in GGUFReader(path).tensors
    ]


def read_per_token(tensors: Iterable[Tensor]) -> PerToken:
    """Returns the weights that a decode step reads.

    These are the weights of every text layer and of the head.  The vision side (``v.``,
    ``mm.``) and the image's keys and values are not computed in a decode step, and the
    single row of the embedding is left out.
    """
    read = [
        tensor
        for tensor in tensors
        if tensor.name.startswith(("blk.", "output"))
        and not any(part in tensor.name for part in _ONCE_AN_IMAGE)
    ]
    return PerToken(
        sum(tensor.parameters for tensor in read), sum(tensor.nbytes for tensor in read)
    )


def attention_bytes(
    tokens: int, layers: int, kv_heads: int, head_dim: int, item_bytes: int
) -> int:
    """Returns the bytes of the keys and values of tokens in all layers."""
    return 2 * tokens * layers * kv_heads * head_dim * item_bytes
