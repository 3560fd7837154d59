"""Writes a checkpoint as Ollama's converter did, from the documented layout alone.

Independent of ``mllama.weights``: names, transforms and keys are repeated here, so that
a mistake in one of the two shows.  Source of the facts: Ollama's
``convert/convert_mllama.go``, ``convert_llama.go`` and ``tokenizer.go``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from safetensors import safe_open

from mllama.kernels.ops.gguf_quantize import quantize as quantize_blocks
from tests.weights.ollama.ollama_keys import ollama_keys

Array = np.ndarray
Choose = Callable[[str], Kind | None]
"""Returns the format of a tensor by its name, None for Ollama's default F16."""

TEXT_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "cross_attn.q_proj": "cross_attn_q_proj",
    "cross_attn.k_proj": "cross_attn_k_proj",
    "cross_attn.v_proj": "cross_attn_v_proj",
    "cross_attn.o_proj": "cross_attn_o_proj",
    "cross_attn.q_norm": "cross_attn_q_norm",
    "cross_attn.k_norm": "cross_attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
VISION_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
WHOLE_NAMES = {
    "language_model.model.embed_tokens.weight": "token_embd.weight",
    "language_model.model.norm.weight": "output_norm.weight",
    "language_model.lm_head.weight": "output.weight",
    "multi_modal_projector.weight": "mm.0.weight",
    "multi_modal_projector.bias": "mm.0.bias",
    "vision_model.class_embedding": "v.class_embd",
    "vision_model.patch_embedding.weight": "v.patch_embd.weight",
    "vision_model.gated_positional_embedding.embedding": "v.position_embd.weight",
    "vision_model.gated_positional_embedding.gate": "v.position_embd.gate",
    "vision_model.gated_positional_embedding.tile_embedding.weight": (
        "v.tile_position_embd.weight"
    ),
    "vision_model.pre_tile_positional_embedding.embedding.weight": (
        "v.pre_tile_position_embd.weight"
    ),
    "vision_model.pre_tile_positional_embedding.gate": "v.pre_tile_position_embd.gate",
    "vision_model.post_tile_positional_embedding.embedding.weight": (
        "v.post_tile_position_embd.weight"
    ),
    "vision_model.post_tile_positional_embedding.gate": (
        "v.post_tile_position_embd.gate"
    ),
    "vision_model.layernorm_pre.weight": "v.pre_ln.weight",
    "vision_model.layernorm_pre.bias": "v.pre_ln.bias",
    "vision_model.layernorm_post.weight": "v.post_ln.weight",
    "vision_model.layernorm_post.bias": "v.post_ln.bias",
}
ALWAYS_F32 = re.compile(r"v\.(pre_tile_|post_tile_|tile_)?position_embd\.weight|.*bias")
NEVER_QUANTIZED = re.compile(r"(v\.|mm\.).*|.*_norm\.weight")


def ollama_name(name: str) -> str:
    """Returns Ollama's name of a tensor of a published checkpoint."""
    if name in WHOLE_NAMES:
        return WHOLE_NAMES[name]
    layer = re.fullmatch(r"language_model\.model\.layers\.(\d+)\.(.+)", name)
    if layer:
        index, rest = layer.groups()
        if rest in ("cross_attn_attn_gate", "cross_attn_mlp_gate"):
            return f"blk.{index}.{rest}"
        module = rest.removesuffix(".weight")
        return f"blk.{index}.{TEXT_NAMES[module]}.weight"
    layer = re.fullmatch(
        r"vision_model\.(global_)?transformer\.layers\.(\d+)\.(.+)", name
    )
    assert layer, name
    block = "v.global.blk" if layer[1] else "v.blk"
    if layer[3] in ("gate_attn", "gate_ffn"):
        return f"{block}.{layer[2]}.{layer[3].removeprefix('gate_')}_gate"
    module, _, part = layer[3].rpartition(".")
    return f"{block}.{layer[2]}.{VISION_NAMES[module]}.{part}"


def interleaved(rows: Array, heads: int) -> Array:
    """Interleaves the first and second half of each head's rows."""
    first, second = np.split(rows.reshape(heads, -1, *rows.shape[1:]), 2, axis=1)
    return np.stack([first, second], axis=2).reshape(rows.shape)


def stored_tensors(folder: Path) -> Iterator[tuple[str, Array]]:
    """Yields Ollama's tensors in float32."""
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    factors = rope_factors(text)
    if factors is not None:
        yield "rope_freqs.weight", factors
    with safe_open(folder / "model.safetensors", "np") as file:
        for source in sorted(file.keys()):
            name, values = ollama_name(source), file.get_tensor(source)
            values = values.astype(np.float32)
            if name == "v.position_embd.gate":
                yield name, 1 - np.tanh(values)
                yield "v.tile_position_embd.gate", np.tanh(values)
            elif name.startswith("v.") and name.endswith("gate"):
                yield name, np.tanh(values)
            elif name.endswith(("attn_q.weight", "attn_q_proj.weight")):
                own = text["num_attention_heads"]
                heads = vision["attention_heads"] if name.startswith("v.") else own
                yield name, interleaved(values, heads)
            elif name.endswith(("attn_k.weight", "attn_k_proj.weight")):
                own = text["num_key_value_heads"]
                heads = vision["attention_heads"] if name.startswith("v.") else own
                yield name, interleaved(values, heads)
            else:
                yield name, values


def rope_factors(text: dict[str, Any]) -> Array | None:
    """Returns ``rope_freqs.weight``, which only the rope type llama3 has."""
    scaling = text["rope_scaling"]
    if scaling is None or scaling["rope_type"] != "llama3":
        return None
    dimensions = text["hidden_size"] // text["num_attention_heads"]
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for i in range(0, dimensions, 2):
        wave = 2 * math.pi * text["rope_theta"] ** (i / dimensions)
        if wave < original / high:
            factors.append(1.0)
        elif wave > original / low:
            factors.append(scaling["factor"])
        else:
            smooth = np.float32(original) / np.float32(wave) - np.float32(low)
            smooth /= np.float32(high - low)
            factors.append(1 / ((1 - smooth) / np.float32(scaling["factor"]) + smooth))
    return np.array(factors, np.float32)


def q5_k(rows: Array) -> Array:
    """Quantizes to Q5_K without a search: each sub-block of 32 spans its own range."""
    blocks = rows.astype(np.float32).reshape(-1, 8, 32)
    low = np.minimum(blocks.min(axis=2), 0)
    scale = (blocks.max(axis=2) - low) / 31
    unit = (scale.max(axis=1) / 63).astype(np.float16)
    low_unit = (-low.min(axis=1) / 63).astype(np.float16)

    def sixths(values: Array, units: Array) -> Array:
        safe = np.where(units == 0, 1, units).astype(np.float32)[:, None]
        return np.clip(np.ceil(values / safe), 0, 63).astype(np.uint8)

    scales, lows = sixths(scale, unit), sixths(-low, low_unit)
    step = unit.astype(np.float32)[:, None] * scales
    base = low_unit.astype(np.float32)[:, None] * lows
    levels = (blocks + base[..., None]) / np.where(step == 0, 1, step)[..., None]
    levels = np.clip(np.rint(levels), 0, 31).astype(np.uint8)
    packed = np.concatenate(
        [
            scales[:, :4] | (scales[:, 4:] >> 4 << 6),
            lows[:, :4] | (lows[:, 4:] >> 4 << 6),
            scales[:, 4:] & 15 | (lows[:, 4:] & 15) << 4,
        ],
        axis=1,
    )
    high = np.zeros((len(blocks), 32), np.uint8)
    for index in range(8):
        high |= (levels[:, index] >> 4) << index
    pairs = (levels & 15).reshape(-1, 4, 2, 32)
    low_bits = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    halves = np.stack([unit, low_unit], axis=1).view(np.uint8)
    encoded = np.concatenate([halves, packed, high, low_bits], axis=1)
    return encoded.reshape(len(rows), -1)


def encoded(values: Array, kind: Kind) -> Array:
    """Encodes rows in a format."""
    if kind is Kind.Q5_K:
        return q5_k(values)
    if kind in (Kind.Q4_K, Kind.Q6_K):
        return quantize_blocks(values, kind)  # the gguf package only reads these
    return quantize(values, kind)


def write_ollama_gguf(
    folder: Path,
    target: Path,
    choose: Choose = lambda name: None,
    change: Callable[[dict[str, Any]], None] = lambda keys: None,
    tensors: Callable[[dict[str, Array]], None] = lambda tensors: None,
) -> Path:
    """Writes a checkpoint in the published spelling as Ollama's file.

    Args:
        folder: The checkpoint, its weights in ``model.safetensors``.
        target: The file.
        choose: Types of the tensors that Ollama may quantize.
        change: Changes the keys before they are written, to break them.
        tensors: Changes the tensors before they are written.
    """
    keys = ollama_keys(folder)
    change(keys)
    values = dict(stored_tensors(folder))
    tensors(values)
    writer = gguf.GGUFWriter(target, keys.pop("general.architecture"))
    for key, value in keys.items():
        add_key(writer, key, value)
    for name, array in values.items():
        kind = Kind.F16 if array.ndim > 1 else Kind.F32
        if ALWAYS_F32.fullmatch(name):
            kind = Kind.F32
        elif array.ndim > 1 and not NEVER_QUANTIZED.fullmatch(name):
            kind = choose(name) or kind
        if kind is Kind.F32:
            writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
        elif kind is Kind.F16:
            writer.add_tensor(name, np.ascontiguousarray(array, np.float16))
        else:
            writer.add_tensor(name, encoded(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Adds a key in the types of Ollama's converter: uint32, float32, int32 lists."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
