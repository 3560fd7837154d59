"""Compares the int8 matmul with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType

from mllama.kernels import dispatch
from mllama.kernels.dispatch import mojo_package
from mllama.kernels.ops import int8_matmul
from mllama.kernels.ops.int8_matmul import MOJO_PACKAGE, quantize_int8, supports
from tests.kernels import int8_matmul as numpy_form
from tests.kernels.simd_widths import INT8_KERNELS, use_kernels

Array = np.ndarray
HOST = DeviceRef.CPU()

needs_custom_ops = pytest.mark.skipif(
    not dispatch.uses_custom_ops(HOST), reason="this CPU doesn't support the custom ops"
)

VARIANTS = [
    (kernels, has_addend) for kernels in INT8_KERNELS for has_addend in (False, True)
]


class Int8Matmul:
    """A graph with the op in every form, with and without an addend.

    Each call runs one of them; the others get no tokens.
    """

    def __init__(self) -> None:
        types: list[Any] = []
        for kernels, has_addend in VARIANTS:
            name = f"_{kernels}_{has_addend}"
            types += [
                TensorType(DType.float32, [f"tokens{name}", f"width{name}"], HOST),
                TensorType(DType.int8, [f"tiles{name}", f"bytes{name}"], HOST),
                TensorType(DType.float32, [f"columns{name}"], HOST),
                TensorType(DType.float32, [f"addend{name}", f"sums{name}"], HOST),
            ]
        with Graph(
            "int8_matmuls",
            input_types=types,
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        ) as graph:
            outputs = []
            for index, (kernels, has_addend) in enumerate(VARIANTS):
                x, weights, scales, addend = (
                    value.tensor for value in graph.inputs[4 * index : 4 * index + 4]
                )
                with use_kernels(kernels):
                    outputs.append(
                        int8_matmul.int8_matmul(
                            x, weights, scales, addend if has_addend else None
                        )
                    )
            graph.output(*outputs)
        self.model: Model = InferenceSession(devices=[CPU()]).load(graph)

    def __call__(
        self, kernels: str, x: Array, weights: Array, addend: Array | None = None
    ) -> Array:
        """Quantizes the weights and computes ``x @ weights.T + addend``."""
        return self.multiply_int8(kernels, x, *quantize_int8(weights), addend)

    def multiply_int8(
        self,
        kernels: str,
        x: Array,
        levels: Array,
        scales: Array,
        addend: Array | None = None,
    ) -> Array:
        """Multiplies with an int8 matrix; an addend of one row is for all tokens."""
        called = (kernels, addend is not None)
        inputs: list[Array] = []
        for variant in VARIANTS:
            if variant == called:
                addend_rows = scales[None] if addend is None else np.atleast_2d(addend)
                inputs += [x, levels, scales, addend_rows]
            else:
                empty = np.zeros((1, 16), np.float32)
                tile = np.zeros((1, 256), np.int8)
                inputs += [empty[:0], tile, empty[0], empty]
        return self.model.execute(*inputs)[VARIANTS.index(called)].to_numpy()


@pytest.fixture(scope="module")
def matmul() -> Int8Matmul:
    if not dispatch.uses_custom_ops(HOST):
        pytest.skip("this CPU doesn't support the custom ops")
    return Int8Matmul()


def matrices(
    seed: int, tokens: int, width: int, columns: int
) -> tuple[Array, Array, Array]:
    """Returns activations and weights whose rows differ in magnitude, and a bias."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (tokens, width)) * rng.uniform(0.1, 9, (tokens, 1))
    weights = rng.normal(0, 1, (columns, width)) * rng.uniform(0.01, 0.1, (columns, 1))
    bias = rng.normal(0, 1, columns)
    return x.astype("f4"), weights.astype("f4"), bias.astype("f4")


def expected_products(
    kernels: str, x: Array, weights: Array, addend: Array | None = None
) -> Array:
    """Computes the products of a form in NumPy."""
    is_bounded = kernels == dispatch.AVX2
    return numpy_form.int8_matmul(x, weights, addend, is_bounded=is_bounded)


def check(actual: Array, expected: Array, x: Array) -> None:
    """Checks equality except for rounding of sums and of values between two levels."""
    scale = np.abs(x).max() * 0.5
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("kernels", INT8_KERNELS)
@pytest.mark.parametrize("addend_kind", ["none", "bias", "residual"])
@pytest.mark.parametrize("tokens", [0, 1, 3, 4, 11, 12, 13, 95, 96, 97, 230])
def test_products_match_numpy_for_any_number_of_tokens(
    matmul: Int8Matmul, kernels: str, addend_kind: str, tokens: int
) -> None:
    x, weights, bias = matrices(tokens, tokens, 48, 80)
    sums = np.random.default_rng(tokens).normal(0, 9, (tokens, 80)).astype(np.float32)
    addend_value = {"none": None, "bias": bias, "residual": sums}[addend_kind]
    actual = matmul(kernels, x, weights, addend_value)
    assert actual.shape == (tokens, 80)
    if tokens:
        check(actual, expected_products(kernels, x, weights, addend_value), x)


@pytest.mark.parametrize("kernels", INT8_KERNELS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 40),
    width=st.integers(1, 40),
    columns=st.integers(1, 8),
)
def test_products_match_numpy_for_random_shapes(
    matmul: Int8Matmul, kernels: str, seed: int, tokens: int, width: int, columns: int
) -> None:
    x, weights, bias = matrices(seed, tokens, 16 * width, 16 * columns)
    expected = expected_products(kernels, x, weights, bias)
    check(matmul(kernels, x, weights, bias), expected, x)


@pytest.mark.parametrize("kernels", INT8_KERNELS)
def test_the_largest_values_do_not_saturate(matmul: Int8Matmul, kernels: str) -> None:
    x = np.full((13, 7680), -2.0, np.float32)
    weights = np.full((48, 7680), -0.5, np.float32)
    x[:, ::2] = 2
    weights[:, ::2] = 0.5
    expected = expected_products(kernels, x, weights)
    np.testing.assert_allclose(expected, 7680, rtol=0.02)
    np.testing.assert_allclose(matmul(kernels, x, weights), expected, rtol=1e-6)


@pytest.mark.parametrize("kernels", INT8_KERNELS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_of_one_sign_do_not_saturate(
    matmul: Int8Matmul, kernels: str, sign: int
) -> None:
    """As unsigned bytes, such values are the largest; weights are of any size."""
    rng = np.random.default_rng(9)
    x = np.full((13, 1024), sign * 2.0, np.float32)
    weights = rng.uniform(0, 1, (48, 1024)) ** rng.uniform(0, 3, (48, 1))
    weights[::3] *= rng.choice([-1, 1], (16, 1024))
    weights = weights.astype(np.float32)
    expected = expected_products(kernels, x, weights)
    check(matmul(kernels, x, weights), expected, x)


@pytest.mark.parametrize("kernels", INT8_KERNELS)
def test_products_are_close_to_those_of_floats(
    matmul: Int8Matmul, kernels: str
) -> None:
    """AVX2's form, which bounds weights, is about half as exact as the others."""
    rng = np.random.default_rng(10)
    x, weights = rng.normal(0, 1, (64, 1280)), rng.normal(0, 1, (64, 1280))
    x, weights = x.astype(np.float32), weights.astype(np.float32)
    exact = x.astype(np.float64) @ weights.T
    error = matmul(kernels, x, weights) - exact
    relative = np.sqrt(np.square(error).mean() / np.square(exact).mean())
    most = 0.022 if kernels == dispatch.AVX2 else 0.012
    assert most / 2 < relative < most


@pytest.mark.parametrize("kernels", INT8_KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_within_their_token(
    matmul: Int8Matmul, kernels: str, value: float
) -> None:
    x, weights, _ = matrices(1, 30, 64, 32)
    expected = expected_products(kernels, x, weights)
    x[5, 17] = value
    actual = matmul(kernels, x, weights)
    assert np.isnan(actual[5]).all()
    others = np.arange(30) != 5
    check(actual[others], expected[others], x[others])


@pytest.mark.parametrize("kernels", INT8_KERNELS)
def test_zeros_and_tiny_values_give_the_bias(matmul: Int8Matmul, kernels: str) -> None:
    x, weights, bias = matrices(2, 3, 32, 16)
    x[0], x[1], weights[4] = 0, 1e-38, 0
    actual = matmul(kernels, x, weights, bias)
    np.testing.assert_array_equal(actual[:2], np.broadcast_to(bias, (2, 16)))
    assert actual[2, 4] == bias[4]


@pytest.mark.parametrize("kernels", INT8_KERNELS)
@pytest.mark.parametrize(
    ("shape", "levels", "scales", "message"),
    [
        ((2, 24), (1, 256), 16, "widths of activations and weights"),
        ((2, 32), (1, 256), 16, "widths of activations and weights"),
        ((2, 16), (1, 256), 32, "shapes of weights, scales and result"),
    ],
)
def test_inconsistent_shapes_raise(
    matmul: Int8Matmul,
    kernels: str,
    shape: tuple[int, int],
    levels: tuple[int, int],
    scales: int,
    message: str,
) -> None:
    x = np.zeros(shape, np.float32)
    with pytest.raises(Exception, match=message):
        matmul.multiply_int8(
            kernels, x, np.zeros(levels, np.int8), np.ones(scales, np.float32)
        )


@pytest.mark.parametrize("kernels", INT8_KERNELS)
@pytest.mark.parametrize("shape", [(2, 32), (4, 32), (0, 32), (3, 16), (1, 16)])
def test_an_addend_of_another_shape_raises(
    matmul: Int8Matmul, kernels: str, shape: tuple[int, int]
) -> None:
    x, weights, _ = matrices(4, 3, 16, 32)
    with pytest.raises(Exception, match="shapes of result and addend differ"):
        matmul(kernels, x, weights, np.zeros(shape, np.float32))


def test_quantized_weights_are_the_nearest() -> None:
    _, weights, _ = matrices(3, 1, 64, 32)
    levels, scales = quantize_int8(weights)
    tiles = levels.reshape(2, 16, 16, 4).transpose(0, 2, 1, 3).reshape(32, 64)
    assert np.abs(tiles * scales[:, None] - weights).max() <= scales.max() / 2 * 1.001
    assert np.abs(levels.astype(int)).max() == 127


@needs_custom_ops
def test_supports_multiples_of_16_in_float32_on_cpus() -> None:
    assert supports(1280, 5120, DType.float32, HOST)
    assert not supports(1280, 5120, DType.bfloat16, HOST)
    assert not supports(1288, 5120, DType.float32, HOST)
    assert not supports(1280, 5121, DType.float32, HOST)
    assert not supports(1280, 5120, DType.float32, DeviceRef.GPU(0))
