"""The float32 linear layer equals NumPy's, for any shape."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue
from transformers.activations import ACT2FN

from mllama.kernels.dispatch import mojo_package
from mllama.kernels.ops.float_matmul import MOJO_PACKAGE, float_matmul, supports

CPU_REF = DeviceRef.CPU()
VARIANTS = tuple(product((False, True), repeat=2))
"""With bias or without, with GELU or without."""

pytestmark = pytest.mark.skipif(
    not supports(DType.float32, CPU_REF), reason="this CPU doesn't support the op"
)


@pytest.fixture(scope="module")
def model() -> Model:
    """All variants, with shapes that are known at run time only."""

    def forward(
        x: TensorValue, weights: TensorValue, bias: TensorValue
    ) -> list[TensorValue]:
        return [
            float_matmul(
                x.tensor,
                weights.tensor,
                bias.tensor if has_bias else None,
                has_gelu=has_gelu,
            )
            for has_bias, has_gelu in VARIANTS
        ]

    return InferenceSession(devices=[CPU()]).load(
        Graph(
            "float_matmul",
            forward,
            input_types=[
                TensorType(DType.float32, ["tokens", "width"], CPU_REF),
                TensorType(DType.float32, ["columns", "width"], CPU_REF),
                TensorType(DType.float32, ["columns"], CPU_REF),
            ],
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        )
    )


@pytest.mark.parametrize("tokens", [1, 5, 129])
@pytest.mark.parametrize("columns", [1, 40, 515])
@pytest.mark.parametrize("width", [4, 588, 1280])
def test_it_equals_numpy(model: Model, tokens: int, width: int, columns: int) -> None:
    import torch

    generator = np.random.default_rng(tokens + width + columns)
    x = generator.standard_normal((tokens, width), np.float32)
    weights = generator.standard_normal((columns, width), np.float32)
    bias = generator.standard_normal(columns, np.float32)
    results = model.execute(*(Buffer.from_numpy(each) for each in (x, weights, bias)))
    exact = x.astype(np.float64) @ weights.T.astype(np.float64)
    for result, (has_bias, has_gelu) in zip(results, VARIANTS, strict=True):
        expected = exact + bias if has_bias else exact
        if has_gelu:
            expected = ACT2FN["gelu"](torch.from_numpy(expected)).numpy()
        np.testing.assert_allclose(
            result.to_numpy(), expected, rtol=1e-5, atol=2e-6 * width
        )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 8), (16, 12), (16,)), "can't be multiplied with"),
        (((3, 8), (16, 8), (12,)), "doesn't have 16 values"),
    ],
)
def test_other_widths_are_refused(
    shapes: tuple[tuple[int, ...], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Graph(
            "float_matmul",
            lambda *inputs: float_matmul(*(each.tensor for each in inputs)),
            input_types=[TensorType(DType.float32, shape, CPU_REF) for shape in shapes],
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        )
