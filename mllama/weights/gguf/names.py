"""The names and layouts of tensors in Ollama's GGUF files.

Ollama's converter (``convert/convert_mllama.go``, until it was removed) renamed the
tensors, stored gates of the vision side after tanh, and permuted the rows of query and
key projections for interleaved rotation.  A :class:`StoredTensor` is a tensor's name
in the file and the transformation of its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mllama.config import MllamaConfig, MllamaTextConfig, MllamaVisionConfig
from mllama.weights.llama_config import LlamaConfig

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the file.

    Attributes:
        name: Its name in the file.
        heads: Number of attention heads whose rows are permuted; 0 if none are.
        is_tanh: True if the file has the tanh of the values.
    """

    name: str
    heads: int = 0
    is_tanh: bool = False

    def to_ollama_layout(self, values: Array) -> Array:
        """Converts values, or quantized rows, to the file's layout."""
        if self.is_tanh:
            return np.tanh(values)
        return _permute(values, self.heads) if self.heads else values

    def from_ollama_layout(self, values: Array) -> Array:
        """Converts the file's values, or quantized rows, back."""
        if self.is_tanh:
            with np.errstate(divide="ignore"):
                return np.arctanh(np.clip(values, -1, 1))
        return _unpermute(values, self.heads) if self.heads else values


def _permute(rows: Array, heads: int) -> Array:
    """Interleaves the first and second half of each head's rows."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _unpermute(rows: Array, heads: int) -> Array:
    """Undoes :func:`_permute`."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_SELF_ATTENTION = {
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
}
_CROSS_ATTENTION = {
    **{f"cross_attn.{p}_proj.weight": f"cross_attn_{p}_proj.weight" for p in "qkvo"},
    "cross_attn.q_norm.weight": "cross_attn_q_norm.weight",
    "cross_attn.k_norm.weight": "cross_attn_k_norm.weight",
    "cross_attn_attn_gate": "cross_attn_attn_gate",
    "cross_attn_mlp_gate": "cross_attn_mlp_gate",
}
_VISION = {
    "class_embedding": "v.class_embd",
    "patch_embedding.weight": "v.patch_embd.weight",
    "gated_positional_embedding.embedding": "v.position_embd.weight",
    "gated_positional_embedding.tile_embedding.weight": "v.tile_position_embd.weight",
    "pre_tile_positional_embedding.embedding.weight": (
        "v.pre_tile_position_embd.weight"
    ),
    "post_tile_positional_embedding.embedding.weight": (
        "v.post_tile_position_embd.weight"
    ),
    **{
        f"layernorm_{place}.{part}": f"v.{place}_ln.{part}"
        for place in ("pre", "post")
        for part in ("weight", "bias")
    },
}
_VISION_GATES = {
    # The file's v.position_embd.gate is 1 - tanh of the same number.
    "gated_positional_embedding.gate": "v.tile_position_embd.gate",
    "pre_tile_positional_embedding.gate": "v.pre_tile_position_embd.gate",
    "post_tile_positional_embedding.gate": "v.post_tile_position_embd.gate",
}
POSITION_GATE: Final = "v.position_embd.gate"
"""One minus ``v.tile_position_embd.gate``: the file has two tensors for one gate."""

_VISION_LAYER = {
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    **{
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs in (
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.fc1", "ffn_up"),
            ("mlp.fc2", "ffn_down"),
        )
        for part in ("weight", "bias")
    },
}


def stored_tensors(config: MllamaConfig) -> dict[str, StoredTensor]:
    """Returns every tensor in the file, by canonical name.

    llama.cpp's files of a text-only Llama have the same names and layouts.
    """
    found = _text_tensors(config.text_config)
    if not isinstance(config, LlamaConfig):
        found |= _vision_tensors(config.vision_config)
    return found


def _text_tensors(text: MllamaTextConfig) -> dict[str, StoredTensor]:
    queries, keys = text.num_attention_heads, text.num_key_value_heads
    found = {
        "language_model.embed_tokens.weight": StoredTensor("token_embd.weight"),
        "language_model.norm.weight": StoredTensor("output_norm.weight"),
    }
    if not text.tie_word_embeddings:
        found["lm_head.weight"] = StoredTensor("output.weight")
    heads = {
        f"{kind}.{p}_proj.weight": n
        for kind in ("self_attn", "cross_attn")
        for p, n in (("q", queries), ("k", keys))
    }
    for index in range(text.num_hidden_layers):
        crosses = index in text.cross_attention_layers
        names = {**_LAYER, **(_CROSS_ATTENTION if crosses else _SELF_ATTENTION)}
        for ours, theirs in names.items():
            found[f"language_model.layers.{index}.{ours}"] = StoredTensor(
                f"blk.{index}.{theirs}", heads=heads.get(ours, 0)
            )
    return found


def _vision_tensors(vision: MllamaVisionConfig) -> dict[str, StoredTensor]:
    found = {
        "multi_modal_projector.weight": StoredTensor("mm.0.weight"),
        "multi_modal_projector.bias": StoredTensor("mm.0.bias"),
    }
    for ours, theirs in _VISION.items():
        found[f"vision_model.{ours}"] = StoredTensor(theirs)
    for ours, theirs in _VISION_GATES.items():
        found[f"vision_model.{ours}"] = StoredTensor(theirs, is_tanh=True)
    for ours, theirs, count in (
        ("transformer", "v.blk", vision.num_hidden_layers),
        ("global_transformer", "v.global.blk", vision.num_global_layers),
    ):
        for index in range(count):
            module, block = f"vision_model.{ours}.layers.{index}", f"{theirs}.{index}"
            for name, stored in _VISION_LAYER.items():
                found[f"{module}.{name}"] = StoredTensor(f"{block}.{stored}")
            for p in "qk":
                found[f"{module}.self_attn.{p}_proj.weight"] = StoredTensor(
                    f"{block}.attn_{p}.weight", heads=vision.attention_heads
                )
            if theirs == "v.global.blk":
                for part in ("attn", "ffn"):
                    found[f"{module}.gate_{part}"] = StoredTensor(
                        f"{block}.{part}_gate", is_tanh=True
                    )
    return found
