"""The rotary table equals that of the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MllamaTextConfig as ReferenceConfig
from transformers.models.mllama.modeling_mllama import MllamaRotaryEmbedding

from mllama.config import Llama3RopeScaling, MllamaConfig, MllamaTextConfig
from mllama.config.rope import frequencies, rotary_table
from mllama.demo_model import MODEL_PATH

SCALING = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)


EQUAL_FACTORS = Llama3RopeScaling(8.0, 4.0, 4.0, 8192)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 1_000_000.0])
@pytest.mark.parametrize("scaling", [None, SCALING])
def test_frequencies_equal_the_reference_to_the_last_bit(
    scaling: Llama3RopeScaling | None, theta: float, head_dim: int
) -> None:
    text = text_config(head_dim, theta, scaling)
    found = frequencies(text)
    expected = reference_embedding(text).inv_freq.numpy()
    assert found.dtype == np.float32
    # PyTorch's power is not the correctly rounded one in a few of a thousand values.
    assert (found != expected).sum() <= 1
    np.testing.assert_allclose(found, expected, rtol=2**-23)


def test_equal_frequency_factors_leave_no_interpolation() -> None:
    text = text_config(128, 500_000.0, EQUAL_FACTORS)
    unscaled = frequencies(text_config(128, 500_000.0, None))
    is_short = 2 * np.pi / unscaled < 8192 / 4
    np.testing.assert_array_equal(
        frequencies(text), np.where(is_short, unscaled, unscaled / np.float32(8))
    )


@pytest.mark.parametrize("scaling", [None, SCALING])
def test_rotary_table_equals_the_reference_at_all_positions(
    scaling: Llama3RopeScaling | None,
) -> None:
    text = text_config(128, 500_000.0, scaling)
    length = 131_072
    cosine, sine = reference_embedding(text)(torch.zeros(1), torch.arange(length)[None])
    table = rotary_table(text, length)
    assert table.shape == (length, 128)
    # The angles are equal, so that only the rounding of the functions differs.
    assert np.abs(table[:, 0::2] - cosine[0, :, :64].numpy()).max() < 2e-7
    assert np.abs(table[:, 1::2] - sine[0, :, :64].numpy()).max() < 2e-7


def text_config(
    head_dim: int, theta: float, scaling: Llama3RopeScaling | None
) -> MllamaTextConfig:
    return replace(
        MllamaConfig.from_path(MODEL_PATH).text_config,
        hidden_size=32 * head_dim,
        num_attention_heads=32,
        rope_theta=theta,
        rope_scaling=scaling,
    )


def reference_embedding(text: MllamaTextConfig) -> MllamaRotaryEmbedding:
    parameters = {"rope_type": "default", "rope_theta": text.rope_theta}
    if (scaling := text.rope_scaling) is not None:
        parameters |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": (
                scaling.original_max_position_embeddings
            ),
        }
    return MllamaRotaryEmbedding(
        ReferenceConfig(
            hidden_size=text.hidden_size,
            num_attention_heads=text.num_attention_heads,
            rope_parameters=parameters,
        )
    )
