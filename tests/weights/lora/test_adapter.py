"""Merged adapters equal PEFT's, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mllama.config import MllamaConfig
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.lora.adapter import check_values, open_adapter
from tests.reference.adapters import edit_config, write_adapter
from tests.reference.checkpoints import checkpoint

EVERY_LINEAR = [
    *(f"{p}_proj" for p in ("q", "k", "v", "o", "gate", "up", "down")),
    "fc1",
    "fc2",
]
"""Linear layers of the text side, cross-attention and the vision encoder."""

TABLES = [
    "embed_tokens",
    "gated_positional_embedding.tile_embedding",
    "pre_tile_positional_embedding.embedding",
]

OTHERS = ["lm_head", "multi_modal_projector", "patch_embedding"]

CASES: dict[str, dict[str, Any]] = {
    "every_linear": {"r": 4, "lora_alpha": 6, "target_modules": EVERY_LINEAR},
    "rank_stabilized": {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": EVERY_LINEAR,
    },
    "patterns": {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": EVERY_LINEAR,
        "rank_pattern": {
            "q_proj": 2,
            "layers.1.mlp.up_proj": 3,
            r"model\.vision_model\..*\.fc[12]": 5,
            "proj": 7,  # The end of no module's path.
        },
        "alpha_pattern": {
            r"layers\.[02]\..*": 2,
            "model.language_model.layers.1.cross_attn.v_proj": 11,
        },
        "use_rslora": True,
    },
    "tables_and_heads": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": TABLES + OTHERS,
        "rank_pattern": {"embed_tokens": 2},
    },
    "modules_to_save": {
        "r": 2,
        "target_modules": ["q_proj"],
        "modules_to_save": [
            "lm_head",
            "embed_tokens",
            "multi_modal_projector",
            "input_layernorm",
            "gated_positional_embedding",
        ],
    },
    "every_bias": {"r": 2, "target_modules": ["fc1"], "bias": "all"},
    "biases_below": {"r": 2, "target_modules": ["fc1", "fc2"], "bias": "lora_only"},
    "bias_of_the_second_factor": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["fc1", "multi_modal_projector"],
        "lora_bias": True,
    },
    "magnitudes": {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": EVERY_LINEAR + TABLES + OTHERS,
        "use_dora": True,
    },
    "transposed_in_name_only": {
        "r": 2,
        "target_modules": ["q_proj", "fc1"],
        "fan_in_fan_out": True,
    },
}


def differences(
    folder: Path, base: Path, expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Returns each tensor's largest difference from PEFT's, relative to its maximum."""
    plain = open_checkpoint(base)
    adapter = open_adapter(folder, plain.config)
    check_values(adapter)
    merged = adapter.merged_into(plain)
    assert merged.tensors.keys() == expected.keys()
    assert set(adapter.files) < set(merged.files)
    changed = {
        name
        for name, tensor in plain.tensors.items()
        if not np.array_equal(tensor.floats(), expected[name])
    }
    assert changed == set(adapter.changes)
    found = {}
    for name, wanted in expected.items():
        ours = merged.tensors[name].floats()
        assert ours.dtype == np.float32
        found[name] = float(np.abs(ours - wanted).max() / np.abs(wanted).max())
    return found


@pytest.mark.parametrize("case", CASES)
def test_merging_gives_the_same_tensors_as_peft(case: str, tmp_path: Path) -> None:
    made = write_adapter(tmp_path, checkpoint(), **CASES[case])
    off = differences(tmp_path, checkpoint(), made.weights)
    assert max(off.values()) < 2e-6, max(off, key=off.__getitem__)


@pytest.mark.parametrize("case", ["every_linear", "tables_and_heads", "magnitudes"])
def test_old_spelling_is_the_same_adapter(case: str, tmp_path: Path) -> None:
    made = write_adapter(tmp_path, checkpoint(), names="old", **CASES[case])
    off = differences(tmp_path, checkpoint(), made.weights)
    assert max(off.values()) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_merged_in_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    base = checkpoint(dtype="bfloat16", names="new", shards=3)
    made = write_adapter(tmp_path, base, dtype=dtype, **CASES["every_linear"])
    off = differences(tmp_path, base, made.weights)
    assert max(off.values()) < 2e-6


def test_patterns_match_the_adapters_own_spelling(tmp_path: Path) -> None:
    pattern = {"language_model.model.layers.0.self_attn.q_proj": 9.0}
    write_adapter(
        tmp_path,
        checkpoint(),
        names="old",
        r=2,
        lora_alpha=2,
        target_modules="all-linear",
    )
    edit_config(tmp_path, alpha_pattern=pattern)
    adapter = open_adapter(tmp_path, MllamaConfig.from_path(checkpoint()))
    scales = {name: change.scale for name, change in adapter.changes.items()}
    assert scales.pop("language_model.layers.0.self_attn.q_proj.weight") == 4.5
    assert set(scales.values()) == {1.0}


def test_large_tensors_are_merged_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllama.weights.lora.merging._ELEMENTS_AT_ONCE", 1000)
    made = write_adapter(tmp_path, checkpoint(), **CASES["magnitudes"])
    off = differences(tmp_path, checkpoint(), made.weights)
    assert max(off.values()) < 2e-6
