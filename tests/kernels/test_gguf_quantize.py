"""Compares the GGUF quantizers with NumPy, and checks what they reject."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama.errors import CheckpointError
from mllama.kernels.ops.gguf_quantize import FORMATS, quantize
from tests.kernels import gguf_quantize

Array = np.ndarray

ERRORS = {Kind.Q4_0: 0.087, Kind.Q4_K: 0.073, Kind.Q6_K: 0.0180}
"""Relative errors for normally distributed weights."""

LARGEST = {Kind.Q4_0: 5e5, Kind.Q4_K: 4e6, Kind.Q6_K: 2e8}
"""A weight that each format's scales can represent beside any others."""

TOO_LARGE = {Kind.Q4_0: 5.3e5, Kind.Q4_K: 7e7, Kind.Q6_K: 2.8e8}
"""A weight that no scale of each format can represent."""

each_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)


def normal(rows: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, (rows, width)).astype(np.float32)


def relative_error(actual: Array, expected: Array) -> float:
    """Returns the root mean square error, relative to that of the expected values."""
    error = np.square(actual.astype(np.float64) - expected).mean()
    return float(
        np.sqrt(error / max(np.square(expected, dtype=np.float64).mean(), 1e-300))
    )


def check_against_numpy(
    weights: Array, kind: Kind, same: float = 0.99, worse: float = 1.002
) -> None:
    """Checks that blocks are nearly those of the NumPy form.

    Sums in another order change a few roundings and, in one block of a hundred, the
    choice between two equally good scales.

    Args:
        weights: A matrix.
        kind: The format.
        same: Fraction of the bytes that must be equal.
        worse: Allowed ratio of the errors.
    """
    ours, theirs = quantize(weights, kind), gguf_quantize.quantize(weights, kind)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
    assert (ours == theirs).mean() > same
    actual = relative_error(dequantize(ours, kind), weights)
    expected = relative_error(dequantize(theirs, kind), weights)
    assert actual <= expected * worse + 1e-6


@each_format
@pytest.mark.parametrize(
    ("rows", "blocks"), [(1, 1), (1, 7), (3, 1), (37, 5), (513, 2)]
)
def test_matrices_of_any_shape_match_the_numpy_form(
    kind: Kind, rows: int, blocks: int
) -> None:
    check_against_numpy(normal(rows, blocks * GGML_QUANT_SIZES[kind][0]), kind)


@each_format
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(4, 20),
    blocks=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(-6, 3),
    offset=st.sampled_from([0.0, 0.0, -4.0, 4.0]),
    tail=st.sampled_from([2.5, 30.0]),
)
def test_values_of_any_size_sign_and_spread_match_the_numpy_form(
    kind: Kind,
    rows: int,
    blocks: int,
    seed: int,
    size: float,
    offset: float,
    tail: float,
) -> None:
    rng = np.random.default_rng(seed)
    shape = (rows, blocks * GGML_QUANT_SIZES[kind][0])
    weights = (rng.standard_t(tail, shape) + offset) * 10.0**size
    # Super-scales of smaller weights are few of float16's smallest units: where two are
    # equally good, the choice is seen.
    worse = 1.05 if size > -4 else 2
    check_against_numpy(weights.astype(np.float32), kind, same=0.6, worse=worse)


@each_format
def test_rows_are_independent(kind: Kind) -> None:
    values = normal(200, 768)
    alone = [quantize(row[None], kind) for row in values]
    np.testing.assert_array_equal(quantize(values, kind), np.concatenate(alone))


@each_format
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_give_the_blocks_of_their_float32_values(
    kind: Kind, dtype: str
) -> None:
    values = normal(9, 1280)
    if dtype == "bfloat16":
        stored: Array = (values.view(np.uint32) >> 16).astype(np.uint16)
        values = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        stored = values.astype(np.float16)
        values = stored.astype(np.float32)
    ours, widened = quantize(stored, kind), quantize(values, kind)
    assert (ours == widened).mean() > 0.999
    assert relative_error(dequantize(ours, kind), values) < ERRORS[kind]


@each_format
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, 256:768],
        lambda a: a[::2],
        lambda a: (
            np.frombuffer(b"\0\0\0" + a.tobytes(), "u1")[3:]
            .view("<f4")
            .reshape(a.shape)
        ),
        lambda a: np.asfortranarray(a),
    ],
    ids=["columns", "every other row", "unaligned", "columns first"],
)
def test_rows_may_have_any_memory_layout(
    kind: Kind, view: Callable[[Array], Array]
) -> None:
    values = view(normal(8, 1024))
    values.setflags(write=False)
    expected = quantize(np.array(values, order="C"), kind)
    np.testing.assert_array_equal(quantize(values, kind), expected)


@each_format
@pytest.mark.parametrize("zero", [0.0, -0.0, 1e-38, -1e-42])
def test_zeros_and_denormals_become_zeros(kind: Kind, zero: float) -> None:
    blocks = quantize(np.full((3, 512), zero, np.float32), kind)
    assert not dequantize(blocks, kind).any()


@each_format
@pytest.mark.parametrize("value", [1.0, -1.0, 0.013, -250.0, 3e5])
def test_constants_are_preserved(kind: Kind, value: float) -> None:
    weights = np.full((2, 512), value, np.float32)
    actual = dequantize(quantize(weights, kind), kind)
    # Small scales are denormal in float16, exact to one part in 200 here.
    np.testing.assert_allclose(actual, weights, rtol=1 / 128)


@each_format
def test_the_largest_representable_weights_match_the_numpy_form(kind: Kind) -> None:
    weights = normal(4, 512)
    weights *= LARGEST[kind] / np.abs(weights).max()
    check_against_numpy(weights, kind)


@each_format
@pytest.mark.parametrize("size", [1.0, 1e3, 1e10, 1e20, 1e30])
def test_too_large_weights_raise(kind: Kind, size: float) -> None:
    weights = normal(5, 512)
    weights[3, 300] = -TOO_LARGE[kind] * size
    with pytest.raises(CheckpointError, match=r"h\.w contains values that are too"):
        quantize(weights, kind, "h.w")


@each_format
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 511, 5 * 512 + 255, 1023 * 512 + 7, -1])
def test_nan_and_infinity_raise_with_the_tensors_name(
    kind: Kind, dtype: str, value: float, index: int
) -> None:
    weights = normal(1024, 512)
    weights.flat[index] = value
    if dtype == "bfloat16":
        weights = (weights.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "float16":
        weights = weights.astype(np.float16)
    with pytest.raises(CheckpointError, match=r"blk\.0 contains NaN or infinity"):
        quantize(weights, kind, "blk.0")


@each_format
@pytest.mark.parametrize("exponent", [None, 0, 1, 120, 154, 155, 156])
def test_random_bits_give_finite_blocks_or_an_error(
    kind: Kind, exponent: int | None
) -> None:
    """Random bits have all exponents: denormal, tiny, and at the limit."""
    for seed in range(50):
        bits = np.random.default_rng(seed).integers(0, 1 << 32, (3, 512), np.uint32)
        if exponent is not None:
            bits = (bits & 0x807FFFFF) | np.uint32(exponent << 23)
        with contextlib.suppress(CheckpointError):
            blocks = quantize(bits.view(np.float32), kind)
            assert np.isfinite(dequantize(blocks, kind)).all()


def test_threads_quantize_independently() -> None:
    matrices = [normal(64, 512, seed) for seed in range(12)]
    expected = [quantize(matrix, Kind.Q4_K) for matrix in matrices]
    with ThreadPoolExecutor(4) as threads:
        actual = list(threads.map(lambda m: quantize(m, Kind.Q4_K), matrices))
    np.testing.assert_array_equal(actual, expected)


def test_nan_is_reported_before_too_large_weights() -> None:
    weights = np.full((1, 512), 1e20, np.float32)
    weights[0, 400] = np.nan
    with pytest.raises(CheckpointError, match="NaN"):
        quantize(weights, Kind.Q6_K)


def test_q4_0_matches_the_gguf_package() -> None:
    values = normal(64, 512)
    theirs = gguf.quants.quantize(values, Kind.Q4_0)
    assert (quantize(values, Kind.Q4_0) == theirs).mean() > 0.9999


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K])
def test_dequantized_weights_are_preserved(kind: Kind) -> None:
    """Quantizing dequantized weights again changes almost nothing."""
    once = dequantize(quantize(normal(8, 512), kind), kind)
    assert relative_error(dequantize(quantize(once, kind), kind), once) < 0.012


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        (np.zeros((2, 320), np.float32), Kind.Q4_K, "multiple of 256, not 320"),
        (np.zeros((2, 40), np.float32), Kind.Q4_0, "multiple of 32, not 40"),
        (np.zeros((2, 0), np.float32), Kind.Q6_K, "multiple of 256, not 0"),
        (np.zeros(256, np.float32), Kind.Q4_K, "1 dimensions"),
        (np.zeros((1, 2, 256), np.float32), Kind.Q4_K, "3 dimensions"),
        (np.zeros((2, 256), np.float64), Kind.Q4_K, "float64"),
        (np.zeros((2, 256), np.int32), Kind.Q4_K, "int32"),
    ],
)
def test_unsupported_matrices_raise(weights: Array, kind: Kind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(weights, kind)


@each_format
def test_a_matrix_without_rows_gives_no_blocks(kind: Kind) -> None:
    _, size = GGML_QUANT_SIZES[kind]
    blocks = quantize(np.zeros((0, GGML_QUANT_SIZES[kind][0]), np.float32), kind)
    assert blocks.shape == (0, size)
