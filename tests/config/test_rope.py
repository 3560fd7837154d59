"""The rotary table equals that of the reference, to the last float32 digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MllamaTextConfig as ReferenceConfig
from transformers.models.mllama.modeling_mllama import MllamaRotaryEmbedding

from mllama.config import Llama3RopeScaling, MllamaConfig
from mllama.config.rope import rotary_table
from mllama.demo_model import MODEL_PATH

SCALING = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("scaling", [None, SCALING])
def test_rotary_table_equals_the_reference(scaling: Llama3RopeScaling | None) -> None:
    text = replace(
        MllamaConfig.from_path(MODEL_PATH).text_config,
        hidden_size=4096,
        num_attention_heads=32,
        rope_theta=500000.0,
        rope_scaling=scaling,
    )
    parameters = {"rope_type": "default", "rope_theta": 500000.0}
    if scaling is not None:
        parameters |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": 8192,
        }
    reference = MllamaRotaryEmbedding(
        ReferenceConfig(
            hidden_size=4096, num_attention_heads=32, rope_parameters=parameters
        )
    )
    length = 20_000
    cosine, sine = reference(torch.zeros(1), torch.arange(length)[None])
    table = rotary_table(text, length)
    assert table.shape == (length, 128)
    # float32 represents a position to 1 in 2**24, and angles are as large as positions.
    error = np.abs(table[:, 0::2] - cosine[0, :, :64].numpy())
    assert error.max() < length * 2**-22
    error = np.abs(table[:, 1::2] - sine[0, :, :64].numpy())
    assert error.max() < length * 2**-22
    assert np.abs(table[:256, 0::2] - cosine[0, :256, :64].numpy()).max() < 1e-4
