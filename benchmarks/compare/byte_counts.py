"""What must be read from memory for a token, counted from a model's tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

_ONCE_AN_IMAGE = ("cross_attn_k_proj", "cross_attn_v_proj", "cross_attn_k_norm")
"""Their results are kept with the image."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a GGUF file: its name, parameters and bytes."""

    name: str
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class PerToken:
    """Of all text layers and the head: parameters, and the bytes that hold them."""

    parameters: int
    nbytes: int


def tensors_of(path: Path) -> list[Tensor]:
    """The tensors of a GGUF file."""
    return [
        Tensor(tensor.name, int(tensor.n_elements), int(tensor.n_bytes))
        for tensor in GGUFReader(path).tensors
    ]


def read_per_token(tensors: Iterable[Tensor]) -> PerToken:
    """What a decode step reads of the weights.

    That is every text layer and the head; not the vision side (``v.``, ``mm.``), not
    what belongs to an image, and of the embedding one row, which is left out.
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
    rows: int, layers: int, kv_heads: int, head_dim: int, item_bytes: int
) -> int:
    """Keys and values of ``rows`` tokens in so many layers."""
    return 2 * rows * layers * kv_heads * head_dim * item_bytes
