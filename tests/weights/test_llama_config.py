"""A Llama's config is read as transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig as Reference
from transformers import LlamaForCausalLM

from mllama.config import Llama3RopeScaling
from mllama.errors import ConfigError
from mllama.weights.llama_config import LlamaConfig
from mllama.weights.names import canonical_llama_name, expected_tensors

LLAMA_3_2_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def test_the_published_config_is_read() -> None:
    config = LlamaConfig.from_dict(LLAMA_3_2_1B)
    text = config.text_config
    assert config.dtype == "bfloat16"
    assert (text.head_dim, text.num_embeddings) == (64, 128256)
    assert text.cross_attention_layers == ()
    assert text.rope_scaling == Llama3RopeScaling(32.0, 1.0, 4.0, 8192)
    parameters = {"rope_theta": 500000.0, **LLAMA_3_2_1B["rope_scaling"]}
    new = {**LLAMA_3_2_1B, "rope_parameters": parameters, "dtype": "bfloat16"}
    for name in ("rope_theta", "rope_scaling", "torch_dtype"):
        del new[name]
    assert LlamaConfig.from_dict(new) == config


def test_missing_fields_get_the_defaults_of_transformers() -> None:
    text = LlamaConfig.from_dict({"model_type": "llama"}).text_config
    theirs = Reference()
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
    ):
        assert getattr(text, name) == getattr(theirs, name), name
    assert text.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_bias": True}, "attention_bias must be False"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"num_key_value_heads": 5}, "is not a multiple of"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be greater than"),
        ({"num_attention_heads": 0}, "num_attention_heads must be greater than"),
        ({"hidden_size": "2048"}, "hidden_size must be a valid integer"),
        ({"head_dim": 63}, "head_dim 63 is odd"),
        ({"model_type": "mistral", "architectures": None}, "of type 'mistral'"),
        ({"architectures": "MllamaForCausalLM"}, "is 'MllamaForCausalLM'; use"),
        ({"architectures": ["X"], "vision_config": {}}, "'X', which sees pictures"),
    ],
)
def test_other_models_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LlamaConfig.from_dict({**LLAMA_3_2_1B, **fields})


def test_a_file_that_is_no_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        LlamaConfig.from_path(tmp_path)
    for content in ("[]", "{", json.dumps("x")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError):
            LlamaConfig.from_path(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_tensors_are_those_of_transformers(tied: bool) -> None:
    small = {
        **LLAMA_3_2_1B,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 50,
        "tie_word_embeddings": tied,
    }
    with torch.device("meta"):
        model = LlamaForCausalLM(Reference(**small))
    theirs = {
        canonical_llama_name(name): tuple(tensor.shape)
        for name, tensor in model.named_parameters()
    }
    assert theirs == expected_tensors(LlamaConfig.from_dict(small))
