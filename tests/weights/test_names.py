"""Names and shapes are those of transformers' model."""

from __future__ import annotations

import pytest
import torch
from transformers import MllamaForConditionalGeneration

from mllama.config import MllamaConfig
from mllama.weights.names import canonical_name, expected_tensors
from tests.reference.configs import config_json, published_widths_config, tiny_config


@pytest.mark.parametrize("make", [tiny_config, published_widths_config])
def test_expected_tensors_are_the_models(make: object) -> None:
    reference = make()  # type: ignore[operator]
    with torch.device("meta"):
        model = MllamaForConditionalGeneration(reference)
    theirs = {
        canonical_name(name): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    values = config_json(reference, rope_spelling="new", dtype="float32")
    assert expected_tensors(MllamaConfig.from_dict(values)) == theirs


def test_tied_embeddings_have_no_head() -> None:
    reference = tiny_config(text={"tie_word_embeddings": True})
    values = config_json(reference, rope_spelling="new", dtype="float32")
    assert "lm_head.weight" not in expected_tensors(MllamaConfig.from_dict(values))


@pytest.mark.parametrize(
    "prefix", ["", "model.", "base_model.model.", "base_model.model.model.", "module."]
)
@pytest.mark.parametrize(
    "name",
    [
        "language_model.layers.3.cross_attn.q_norm.weight",
        "language_model.embed_tokens.weight",
        "vision_model.class_embedding",
        "multi_modal_projector.bias",
        "lm_head.weight",
    ],
)
def test_prefixes_of_frameworks_are_dropped(prefix: str, name: str) -> None:
    assert canonical_name(prefix + name) == name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("language_model.model.norm.weight", "language_model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("base_model.model.language_model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_published_spelling_is_understood(old: str, new: str) -> None:
    assert canonical_name(old) == new


@pytest.mark.parametrize("name", ["", "optimizer.step", "vision_tower.x", "model"])
def test_other_tensors_have_no_name(name: str) -> None:
    assert canonical_name(name) is None
