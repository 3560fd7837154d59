"""The parameters of RoPE scaling are inferred from its factors."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mllama.config import Llama3RopeScaling
from mllama.config.rope import llama3_factors
from mllama.weights.ollama.rope_factors import infer_scaling

THETA = 500_000.0


def test_factors_are_those_of_transformers() -> None:
    from transformers import MllamaConfig as Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = Config().text_config
    config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": THETA,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = THETA ** -(np.arange(0, 128, 2) / 128)
    factors = llama3_factors(Llama3RopeScaling(8.0, 1.0, 4.0, 8192), 128, THETA)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("scaling", "head_dim"),
    [
        (Llama3RopeScaling(8.0, 1.0, 4.0, 8192), 128),
        (Llama3RopeScaling(32.0, 1.0, 4.0, 8192), 64),
        (Llama3RopeScaling(8.0, 1.0, 4.0, 512), 64),
        (Llama3RopeScaling(4.0, 1.0, 8.0, 2048), 128),
    ],
)
def test_published_parameters_are_inferred(
    scaling: Llama3RopeScaling, head_dim: int
) -> None:
    factors = llama3_factors(scaling, head_dim, THETA).astype(np.float32)
    assert infer_scaling(factors, THETA) == scaling


def test_other_parameters_give_the_same_factors() -> None:
    """Several sets of parameters give the same factors, more so with few factors."""
    chance = random.Random(0)
    compared = 0
    for _ in range(500):
        low = chance.choice((1.0, 1.5, 2.0))
        scaling = Llama3RopeScaling(
            chance.choice((1.5, 8.0, 32.0)),
            low,
            low * chance.choice((1.01, 2.0, 4.0, 8.0)),
            chance.choice((100, 512, 8192, 32768)),
        )
        head_dim = chance.choice((16, 64, 128))
        factors = llama3_factors(scaling, head_dim, THETA).astype(np.float32)
        if not np.isclose(factors[-1], scaling.factor):
            continue  # The longest wave doesn't show the factor.
        found = infer_scaling(factors, THETA)
        assert found is not None
        again = llama3_factors(found, head_dim, THETA)
        np.testing.assert_allclose(again, factors, rtol=2e-5)
        compared += 1
    assert compared > 400


def test_factors_of_one_scale_nothing() -> None:
    assert infer_scaling(np.ones(64, np.float32), THETA) is None


@pytest.mark.parametrize(
    "factors",
    [
        [2.0, 1.0, 1.0, 1.0],
        [1.0, 3.0, 2.0, 8.0],
        [1.0, 1.0, 0.0, 8.0],
        [1.0, 1.0, -8.0, 8.0],
        [1.0, 1.0, float("inf"), 8.0],
        [1.0, 1.0, float("nan"), 8.0],
    ],
)
@pytest.mark.parametrize("theta", [THETA, 1.0, 1e-40, 3e38])
def test_other_factors_are_refused(factors: list[float], theta: float) -> None:
    with pytest.raises(ValueError, match="factors"):
        infer_scaling(np.array(factors, np.float32), theta)


@pytest.mark.filterwarnings("error")
def test_random_bits_are_refused_or_reproduced() -> None:
    chance = random.Random(0)
    for _ in range(300):
        factors = np.frombuffer(chance.randbytes(64), np.float32)
        with pytest.raises(ValueError, match="factors"):
            infer_scaling(factors, chance.choice((1e4, 1.0, 3e38, 1e-40)))
