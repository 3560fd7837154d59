"""Compares the GGUF matmul ops with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from max.dtype import DType
from max.graph import Graph, TensorType, Weight
from max.graph.quantization import QuantizationEncoding

from mllama.kernels.dispatch import mojo_package
from mllama.kernels.ops import gguf_matmul as custom_ops
from mllama.max_compat.compiler import ensure_default_mlir_context
from tests.kernels import gguf_quantize
from tests.kernels.gguf_matmul import (
    dequantize_weights,
    gate_up,
    gguf_matmul,
    quantize_activations,
    random_blocks,
)
from tests.kernels.gguf_matmul_graph import (
    CPU_DEVICE,
    FORMATS,
    GATE_UP_FORMATS,
    QKV_FORMATS,
    Run,
    compile_ops,
    fused_gate_up,
    fused_qkv,
    matmul,
)
from tests.kernels.simd_widths import INT8_KERNELS

Array = np.ndarray

each_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)


@pytest.fixture(scope="module", params=INT8_KERNELS)
def run(request: pytest.FixtureRequest) -> Run:
    return compile_ops(request.param)


def check(actual: Array, expected: Array, x: Array, size: float) -> None:
    """Checks equality except for the rounding of sums in float32.

    Args:
        actual: The op's products.
        expected: NumPy's products.
        x: The activations.
        size: The largest weight.
    """
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    assert (np.abs(actual - expected) <= 2e-7 * x.shape[1] * largest * size).all()


def normal(rng: np.random.Generator, tokens: int, width: int) -> Array:
    """Returns activations whose super-blocks differ in magnitude."""
    scales = np.exp(rng.normal(0, 2, (tokens, width // 256, 1)))
    values = rng.normal(0, 1, (tokens, width // 256, 256)) * scales
    return values.reshape(tokens, width).astype(np.float32)


SIZES = {
    "tokens": st.integers(0, 9) | st.sampled_from([31, 257]),
    "columns": st.integers(1, 50),
    "super_blocks": st.integers(1, 9),
    "seed": st.integers(0, 2**32 - 1),
}


@each_format
@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_products_match_numpy(
    run: Run, kind: Kind, tokens: int, columns: int, super_blocks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, tokens, 256 * super_blocks)
    blocks = random_blocks(rng, columns, 256 * super_blocks, kind)
    size = np.abs(dequantize_weights(blocks, kind)).max()
    check(matmul(run, x, blocks, kind), gguf_matmul(x, blocks, kind), x, size)


@each_format
@pytest.mark.parametrize("super_blocks", [63, 64, 65])
def test_single_tokens_of_any_width_match_numpy(
    run: Run, kind: Kind, super_blocks: int
) -> None:
    """Up to 64 super-blocks stay in the L1 cache, and use the matrix-vector kernel."""
    rng = np.random.default_rng(7)
    x = normal(rng, 1, 256 * super_blocks)
    blocks = random_blocks(rng, 19, 256 * super_blocks, kind)
    size = np.abs(dequantize_weights(blocks, kind)).max()
    check(matmul(run, x, blocks, kind), gguf_matmul(x, blocks, kind), x, size)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_fused_qkv_matches_numpy(
    run: Run, tokens: int, columns: int, super_blocks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, tokens, 256 * super_blocks)
    blocks = [
        random_blocks(rng, count, 256 * super_blocks, kind)
        for count, kind in zip((columns, 7, 17), QKV_FORMATS, strict=True)
    ]
    expected = [gguf_matmul(x, *each) for each in zip(blocks, QKV_FORMATS, strict=True)]
    size = max(
        np.abs(dequantize_weights(*each)).max()
        for each in zip(blocks, QKV_FORMATS, strict=True)
    )
    check(fused_qkv(run, x, blocks), np.concatenate(expected, axis=1), x, size)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_fused_gate_up_matches_numpy(
    run: Run, tokens: int, columns: int, super_blocks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, tokens, 256 * super_blocks)
    x /= np.abs(x).max(axis=1, keepdims=True, initial=1) * 16
    blocks = [
        random_blocks(rng, columns, 256 * super_blocks, kind)
        for kind in GATE_UP_FORMATS
    ]
    factors = [
        gguf_matmul(x, *each) for each in zip(blocks, GATE_UP_FORMATS, strict=True)
    ]
    actual, expected = fused_gate_up(run, x, blocks), gate_up(*factors)
    assert actual.shape == expected.shape
    largest = max(np.abs(factor).max(initial=1) for factor in factors)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * largest**2)


@each_format
@pytest.mark.parametrize("level", [0, 0x77, 0xFF])
@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize("tokens", [1, 5, 9])
def test_extreme_sums_do_not_overflow(
    run: Run, kind: Kind, level: int, sign: int, tokens: int
) -> None:
    """All levels, scales and activations have the largest magnitude at once."""
    rng = np.random.default_rng(0)
    blocks = random_blocks(rng, 19, 512, kind)
    halves = {Kind.Q4_0: [0], Kind.Q4_K: [0, 2], Kind.Q6_K: [208]}[kind]
    per_block = blocks.reshape(19, -1, GGML_QUANT_SIZES[kind][1])
    keep = [byte for index in halves for byte in (index, index + 1)]
    others = np.setdiff1d(np.arange(per_block.shape[2]), keep)
    per_block[:, :, others] = level
    if sign:
        x = np.full((tokens, 512), sign * 3.0, np.float32)
    else:
        x = np.where(np.arange(512) % 2, 3.0, -3.0).astype(np.float32)
        x = np.tile(x, (tokens, 1))
    size = np.abs(dequantize_weights(blocks, kind)).max()
    check(matmul(run, x, blocks, kind), gguf_matmul(x, blocks, kind), x, size * 4)


@each_format
def test_products_are_close_to_those_of_float_activations(run: Run, kind: Kind) -> None:
    """The error of int8 activations is smaller than that of 4-bit weights."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (6, 1024)).astype(np.float32)
    blocks = gguf_quantize.quantize(rng.normal(0, 1, (48, 1024)), kind)
    exact = x.astype(np.float64) @ dequantize_weights(blocks, kind).T
    error = matmul(run, x, blocks, kind) - exact
    assert 1e-4 < np.sqrt(np.square(error).mean() / np.square(exact).mean()) < 0.01


@each_format
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_nan_and_infinity_stay_within_their_token(
    run: Run, kind: Kind, value: float, tokens: int
) -> None:
    rng = np.random.default_rng(2)
    x = normal(rng, tokens, 512)
    blocks = random_blocks(rng, 21, 512, kind)
    before = matmul(run, x, blocks, kind)
    x[tokens // 2, 300] = value
    after = matmul(run, x, blocks, kind)
    assert not np.isfinite(after[tokens // 2]).any()
    others = np.arange(tokens) != tokens // 2
    np.testing.assert_array_equal(after[others], before[others])


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-31, 1e-29, 1e37, 3e38])
def test_activations_of_any_magnitude_match_numpy(run: Run, size: float) -> None:
    rng = np.random.default_rng(3)
    x = (rng.uniform(-1, 1, (3, 256)) * size).astype(np.float32)
    blocks = random_blocks(rng, 16, 256, Kind.Q6_K)
    blocks[:, 208:] = np.full((16, 1), 1e-5, np.float16).view(np.uint8)
    actual = matmul(run, x, blocks, Kind.Q6_K)
    expected = gguf_matmul(x, blocks, Kind.Q6_K)
    assert np.isfinite(actual).all()
    check(actual, expected, x, np.abs(dequantize_weights(blocks, Kind.Q6_K)).max())


@each_format
@pytest.mark.parametrize("offset", [1, 2, 31])
@pytest.mark.parametrize("tokens", [1, 3])
def test_gguf_blocks_may_lie_at_any_address(
    run: Run, kind: Kind, offset: int, tokens: int
) -> None:
    rng = np.random.default_rng(4)
    blocks = random_blocks(rng, 33, 512, kind)
    memory = np.empty(blocks.size + 64, np.uint8)
    start = (-memory.ctypes.data) % 32 + offset
    moved = memory[start : start + blocks.size].reshape(blocks.shape)
    moved[:] = blocks
    assert moved.ctypes.data % 32 == offset
    x = normal(rng, tokens, 512)
    np.testing.assert_array_equal(
        matmul(run, x, moved, kind), matmul(run, x, blocks, kind)
    )


def test_tokens_do_not_depend_on_each_other(run: Run) -> None:
    """A request gets the same numbers alone and in a batch."""
    rng = np.random.default_rng(5)
    width = 256 * 7  # One token takes four super-blocks together, then the others.
    x = normal(rng, 11, width)
    for kind in FORMATS:
        blocks = random_blocks(rng, 20, width, kind)
        together = matmul(run, x, blocks, kind)
        for token in range(len(x)):
            alone = matmul(run, x[token : token + 1], blocks, kind)
            np.testing.assert_array_equal(alone[0], together[token])


def test_inconsistent_shapes_raise(run: Run) -> None:
    rng = np.random.default_rng(6)
    short = random_blocks(rng, 4, 256, Kind.Q4_K)
    with pytest.raises(ValueError, match="activations, GGUF blocks and result"):
        matmul(run, normal(rng, 2, 512), short, Kind.Q4_K)
    odd = random_blocks(rng, 4, 288, Kind.Q4_0)
    with pytest.raises(ValueError, match="activations, GGUF blocks and result"):
        matmul(run, np.zeros((2, 288), np.float32), odd, Kind.Q4_0)
    unequal = [
        random_blocks(rng, 4, 256, GATE_UP_FORMATS[0]),
        random_blocks(rng, 5, 256, GATE_UP_FORMATS[1]),
    ]
    with pytest.raises(ValueError, match="columns"):
        fused_gate_up(run, normal(rng, 2, 256), unequal)


def weight(name: str, columns: int, row_bytes: int, encoding: QuantizationEncoding):
    return Weight(
        name,
        DType.uint8,
        (columns, row_bytes),
        CPU_DEVICE,
        quantization_encoding=encoding,
    )


def test_unsupported_operands_raise_when_the_graph_is_built() -> None:
    """Ops that can't work raise when the graph is built."""
    q4_k = QuantizationEncoding.Q4_K
    fitting, other = weight("a", 5, 288, q4_k), weight("b", 6, 288, q4_k)
    with (
        ensure_default_mlir_context(),
        Graph(
            "refusals",
            input_types=[
                TensorType(DType.float32, ("tokens", 512), CPU_DEVICE),
                TensorType(DType.bfloat16, ("tokens", 512), CPU_DEVICE),
            ],
            custom_extensions=[mojo_package(custom_ops.MOJO_PACKAGE)],
        ) as graph,
    ):
        x, low = (value.tensor for value in graph.inputs)
        with pytest.raises(ValueError, match="float32"):
            custom_ops.gguf_matmul(low, fitting)
        with pytest.raises(ValueError, match="are not a row of 512 weights"):
            custom_ops.gguf_matmul(x, weight("c", 5, 287, q4_k))
        with pytest.raises(ValueError, match="blocks"):
            custom_ops.gguf_matmul(x, weight("d", 5, 288, QuantizationEncoding.Q5_K))
        with pytest.raises(ValueError, match="a and b differ"):
            custom_ops.fused_gate_up_matmul(x, fitting, other)
        graph.output(
            custom_ops.gguf_matmul(x, fitting),
            custom_ops.fused_qkv_matmul(x, *[fitting] * 3),
        )


def test_the_numpy_form_quantizes_to_8_bits() -> None:
    x = np.linspace(-1, 1, 256, dtype=np.float32)[None]
    assert np.abs(quantize_activations(x) - x).max() <= 1 / 254 + 1e-9
