"""The test checkpoints: all parts have an effect, and all spellings are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from .cases import case
from .checkpoints import DEFAULT_SEED, checkpoint, tiny_config, write_checkpoint
from .oracle import Reference, reference
from .weights import published_name, weight_shapes


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return reference(checkpoint())


@pytest.fixture(scope="module")
def tile(oracle: Reference) -> int:
    return int(oracle.model.config.vision_config.image_size)


def test_every_gate_is_far_from_zero() -> None:
    tensors = load_file(checkpoint() / "model.safetensors")
    gates = {n: t for n, t in tensors.items() if "gate" in n and t.numel() == 1}
    kinds = {n.split(".")[-1] for n in gates}
    assert kinds == {
        "gate",
        "gate_attn",
        "gate_ffn",
        "cross_attn_attn_gate",
        "cross_attn_mlp_gate",
    }
    assert sum(n.endswith(".gate") for n in gates) == 3  # pre-tile, post-tile, position
    for name, gate in gates.items():
        assert gate.abs().item() > 0.3, name
    norms = [t for n, t in tensors.items() if n.endswith("norm.weight")]
    assert norms
    assert all(norm.std() > 0.05 for norm in norms)


@pytest.mark.parametrize(
    "options",
    [
        {"shards": 3},
        {"names": "new"},
        {"rope_spelling": "new"},
        {"processor_layout": "processor_config", "template_layout": "json"},
        {"template_layout": "tokenizer_config"},
        {"names": "new", "rope_spelling": "new", "shards": 2},
    ],
    ids=lambda options: "+".join(f"{k}={v}" for k, v in options.items()),
)
def test_every_spelling_loads_to_the_same_model(
    oracle: Reference, tile: int, options: dict[str, Any]
) -> None:
    other = reference(checkpoint(**options))
    for name in ("system_and_image", "text_only"):
        messages = case(name, tile).messages
        assert other.prompt(messages).text == oracle.prompt(messages).text
        np.testing.assert_array_equal(other.prefill(messages), oracle.prefill(messages))


def test_bfloat16_weights_are_rounded_float32_weights() -> None:
    rounded = load_file(checkpoint(dtype="bfloat16") / "model.safetensors")
    for name, tensor in load_file(checkpoint() / "model.safetensors").items():
        assert torch.equal(tensor.to(torch.bfloat16), rounded[name]), name


def test_published_names_are_those_of_published_checkpoints() -> None:
    names = {published_name(name) for name in weight_shapes(tiny_config())}
    assert {
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.cross_attn_attn_gate",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.bias",
        "vision_model.class_embedding",
        "vision_model.gated_positional_embedding.tile_embedding.weight",
        "vision_model.global_transformer.layers.0.gate_attn",
    } <= names


def test_llama3_rope_scaling_changes_the_logits(
    oracle: Reference, tile: int, tmp_path: Path
) -> None:
    # The published scaling hardly moves positions below a hundred; this one does.
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = tiny_config(text={"rope_parameters": scaling})
    scaled = Reference(write_checkpoint(tmp_path, config, DEFAULT_SEED))
    messages = case("system_and_image", tile).messages
    change = np.abs(scaled.prefill(messages) - oracle.prefill(messages))
    assert change[-1].max() > 1e-2
