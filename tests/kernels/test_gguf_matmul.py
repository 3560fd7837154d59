"""Products of activations with blocks against their plain form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, Weight, ops
from max.graph.quantization import QuantizationEncoding

from mllama.kernels.dispatch import mojo_package, simd_width
from mllama.kernels.ops import gguf_matmul as own
from mllama.max_compat.compiler import ensure_default_mlir_context
from tests.kernels import reference
from tests.kernels.gguf_matmul import (
    gated,
    product,
    quantized,
    random_blocks,
    weights,
)

Array = np.ndarray
Run = Callable[..., list[Array]]

FORMATS = (Kind.Q4_0, Kind.Q4_K, Kind.Q6_K)
MIXED = (Kind.Q4_K, Kind.Q6_K, Kind.Q4_0)
"""The three of one call."""
GATED = (Kind.Q4_K, Kind.Q6_K)
LANES = (8, 16) if simd_width() == 16 else (8,)
"""The vectors that this machine has."""
CPU_DEVICE = DeviceRef.CPU()

every_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)


@pytest.fixture(scope="module", params=LANES, ids=lambda lanes: f"{lanes} lanes")
def run(request: pytest.FixtureRequest) -> Run:
    """Calls all operations: activations and blocks of each of them, results of each.

    One after the other: the products of FORMATS, of MIXED, and of GATED.
    """
    kinds = [*FORMATS, *MIXED, *GATED]
    inputs = [
        TensorType(DType.float32, (f"rows_{call}", f"width_{call}"), CPU_DEVICE)
        for call in range(5)
    ]
    inputs += [
        TensorType(DType.uint8, (f"columns_{i}", f"bytes_{i}"), CPU_DEVICE)
        for i in range(len(kinds))
    ]
    # What the graph can't know: the columns of three together.
    inputs += [TensorType(DType.float32, ("all_columns",), CPU_DEVICE)]
    with (
        ensure_default_mlir_context(),
        Graph(
            "gguf_matmuls",
            input_types=inputs,
            custom_extensions=[mojo_package(own.MOJO_PACKAGE)],
        ) as graph,
    ):
        values = [value.tensor for value in graph.inputs]
        x, blocks, like = values[:5], values[5:-1], values[-1]

        def call(name: str, place: int, given: list, columns: object, **encodings):
            kind = TensorType(DType.float32, (x[place].shape[0], columns), CPU_DEVICE)
            named = {key: kind.name.lower() for key, kind in encodings.items()}
            named["simd_width"] = request.param
            return ops.custom(name, CPU_DEVICE, [x[place], *given], [kind], named)[0]

        results = [
            call("mllama_gguf_matmul", i, [blocks[i]], blocks[i].shape[0], encoding=k)
            for i, k in enumerate(FORMATS)
        ]
        results.append(
            call(
                "mllama_gguf_fused_qkv",
                3,
                blocks[3:6],
                like.shape[0],
                first_encoding=MIXED[0],
                second_encoding=MIXED[1],
                third_encoding=MIXED[2],
            )
        )
        results.append(
            call(
                "mllama_gguf_fused_gate_up",
                4,
                blocks[6:],
                blocks[6].shape[0],
                gate_encoding=GATED[0],
                up_encoding=GATED[1],
            )
        )
        graph.output(*results)
        model = InferenceSession(devices=[CPU()]).load(graph)

    def execute(x: list[Array], blocks: list[Array], columns: int) -> list[Array]:
        given = [Buffer.from_numpy(array) for array in (*x, *blocks)]
        given.append(Buffer.from_numpy(np.empty(columns, np.float32)))
        return [result.to_numpy() for result in model.execute(*given)]

    return execute


def nothing(kind: Kind) -> Array:
    length, size = GGML_QUANT_SIZES[kind]
    return np.empty((0, 256 // length * size), np.uint8)


NO_ROWS = np.empty((0, 256), np.float32)


def one(run: Run, x: Array, blocks: Array, kind: Kind) -> Array:
    """The product with one matrix."""
    place = FORMATS.index(kind)
    given = [NO_ROWS] * 5
    given[place] = x
    matrices = [nothing(kind) for kind in (*FORMATS, *MIXED, *GATED)]
    matrices[place] = blocks
    return run(given, matrices, 0)[place]


def three(run: Run, x: Array, blocks: list[Array]) -> Array:
    matrices = [nothing(kind) for kind in FORMATS]
    matrices += [*blocks, *(nothing(kind) for kind in GATED)]
    columns = sum(len(matrix) for matrix in blocks)
    return run([*[NO_ROWS] * 3, x, NO_ROWS], matrices, columns)[3]


def gate(run: Run, x: Array, blocks: list[Array]) -> Array:
    matrices = [nothing(kind) for kind in (*FORMATS, *MIXED)]
    return run([*[NO_ROWS] * 4, x], [*matrices, *blocks], 0)[4]


def check(found: Array, wanted: Array, x: Array, size: float) -> None:
    """Equal but for float32's rounding of sums.

    Args:
        found: Products.
        wanted: Those of the plain form.
        x: The activations.
        size: The largest weight.
    """
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    assert (np.abs(found - wanted) <= 2e-7 * x.shape[1] * largest * size).all()


def normal(rng: np.random.Generator, rows: int, width: int) -> Array:
    scales = np.exp(rng.normal(0, 2, (rows, width // 256, 1)))
    values = rng.normal(0, 1, (rows, width // 256, 256)) * scales
    return values.reshape(rows, width).astype(np.float32)


SIZES = {
    "rows": st.integers(0, 9) | st.sampled_from([31, 257]),
    "columns": st.integers(1, 50),
    "spans": st.integers(1, 9),
    "seed": st.integers(0, 2**32 - 1),
}


@every_format
@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_products(
    run: Run, kind: Kind, rows: int, columns: int, spans: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, rows, 256 * spans)
    blocks = random_blocks(rng, columns, 256 * spans, kind)
    size = np.abs(weights(blocks, kind)).max()
    check(one(run, x, blocks, kind), product(x, blocks, kind), x, size)


@every_format
@pytest.mark.parametrize("spans", [64, 65])
def test_one_row_of_any_width(run: Run, kind: Kind, spans: int) -> None:
    """Up to 64 spans stay in the first cache, and columns come one after the other."""
    rng = np.random.default_rng(7)
    x = normal(rng, 1, 256 * spans)
    blocks = random_blocks(rng, 19, 256 * spans, kind)
    size = np.abs(weights(blocks, kind)).max()
    check(one(run, x, blocks, kind), product(x, blocks, kind), x, size)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_three_products(
    run: Run, rows: int, columns: int, spans: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, rows, 256 * spans)
    blocks = [
        random_blocks(rng, count, 256 * spans, kind)
        for count, kind in zip((columns, 7, 17), MIXED, strict=True)
    ]
    wanted = [product(x, *each) for each in zip(blocks, MIXED, strict=True)]
    size = max(np.abs(weights(*each)).max() for each in zip(blocks, MIXED, strict=True))
    check(three(run, x, blocks), np.concatenate(wanted, axis=1), x, size)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_gated_products(
    run: Run, rows: int, columns: int, spans: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, rows, 256 * spans)
    x /= np.abs(x).max(axis=1, keepdims=True, initial=1) * 16
    blocks = [random_blocks(rng, columns, 256 * spans, kind) for kind in GATED]
    factors = [product(x, *each) for each in zip(blocks, GATED, strict=True)]
    found, wanted = gate(run, x, blocks), gated(*factors)
    assert found.shape == wanted.shape
    largest = max(np.abs(factor).max(initial=1) for factor in factors)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * largest**2)


@every_format
@pytest.mark.parametrize("level", [0, 0x77, 0xFF])
@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize("rows", [1, 5, 9])
def test_extreme_sums_do_not_overflow(
    run: Run, kind: Kind, level: int, sign: int, rows: int
) -> None:
    """All levels, scales and activations are the largest at once, of either sign."""
    rng = np.random.default_rng(0)
    blocks = random_blocks(rng, 19, 512, kind)
    halves = {Kind.Q4_0: [0], Kind.Q4_K: [0, 2], Kind.Q6_K: [208]}[kind]
    per_block = blocks.reshape(19, -1, GGML_QUANT_SIZES[kind][1])
    keep = [byte for place in halves for byte in (place, place + 1)]
    others = np.setdiff1d(np.arange(per_block.shape[2]), keep)
    per_block[:, :, others] = level
    if sign:
        x = np.full((rows, 512), sign * 3.0, np.float32)
    else:
        x = np.where(np.arange(512) % 2, 3.0, -3.0).astype(np.float32)
        x = np.tile(x, (rows, 1))
    size = np.abs(weights(blocks, kind)).max()
    check(one(run, x, blocks, kind), product(x, blocks, kind), x, size * 4)


@every_format
def test_close_to_the_product_of_floats(run: Run, kind: Kind) -> None:
    """What quantized activations cost: less than what 4 bits of a weight do."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (6, 1024)).astype(np.float32)
    blocks = reference.quantize(rng.normal(0, 1, (48, 1024)), kind)
    exact = x.astype(np.float64) @ weights(blocks, kind).T
    off = one(run, x, blocks, kind) - exact
    assert 1e-4 < np.sqrt(np.square(off).mean() / np.square(exact).mean()) < 0.01


@every_format
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_a_row_that_is_not_finite_spoils_itself_alone(
    run: Run, kind: Kind, bad: float, rows: int
) -> None:
    rng = np.random.default_rng(2)
    x = normal(rng, rows, 512)
    blocks = random_blocks(rng, 21, 512, kind)
    before = one(run, x, blocks, kind)
    x[rows // 2, 300] = bad
    after = one(run, x, blocks, kind)
    assert not np.isfinite(after[rows // 2]).any()
    others = np.arange(rows) != rows // 2
    np.testing.assert_array_equal(after[others], before[others])


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-31, 1e-29, 1e37, 3e38])
def test_activations_of_any_size(run: Run, size: float) -> None:
    rng = np.random.default_rng(3)
    x = (rng.uniform(-1, 1, (3, 256)) * size).astype(np.float32)
    blocks = random_blocks(rng, 16, 256, Kind.Q6_K)
    blocks[:, 208:] = np.full((16, 1), 1e-5, np.float16).view(np.uint8)
    found = one(run, x, blocks, Kind.Q6_K)
    wanted = product(x, blocks, Kind.Q6_K)
    assert np.isfinite(found).all()
    check(found, wanted, x, np.abs(weights(blocks, Kind.Q6_K)).max())


@every_format
@pytest.mark.parametrize("offset", [1, 2, 31])
@pytest.mark.parametrize("rows", [1, 3])
def test_blocks_at_any_address(run: Run, kind: Kind, offset: int, rows: int) -> None:
    rng = np.random.default_rng(4)
    blocks = random_blocks(rng, 33, 512, kind)
    memory = np.empty(blocks.size + 64, np.uint8)
    start = (-memory.ctypes.data) % 32 + offset
    moved = memory[start : start + blocks.size].reshape(blocks.shape)
    moved[:] = blocks
    assert moved.ctypes.data % 32 == offset
    x = normal(rng, rows, 512)
    np.testing.assert_array_equal(one(run, x, moved, kind), one(run, x, blocks, kind))


def test_rows_do_not_depend_on_each_other(run: Run) -> None:
    """A stream gets the same numbers alone and in a batch."""
    rng = np.random.default_rng(5)
    x = normal(rng, 11, 768)
    for kind in FORMATS:
        blocks = random_blocks(rng, 20, 768, kind)
        together = one(run, x, blocks, kind)
        for row in range(len(x)):
            alone = one(run, x[row : row + 1], blocks, kind)
            np.testing.assert_array_equal(alone[0], together[row])


def test_shapes_that_contradict_each_other(run: Run) -> None:
    rng = np.random.default_rng(6)
    short = random_blocks(rng, 4, 256, Kind.Q4_K)
    with pytest.raises(ValueError, match="activations, GGUF blocks and result"):
        one(run, normal(rng, 2, 512), short, Kind.Q4_K)
    odd = random_blocks(rng, 4, 288, Kind.Q4_0)
    with pytest.raises(ValueError, match="activations, GGUF blocks and result"):
        one(run, np.zeros((2, 288), np.float32), odd, Kind.Q4_0)
    unequal = [
        random_blocks(rng, 4, 256, GATED[0]),
        random_blocks(rng, 5, 256, GATED[1]),
    ]
    with pytest.raises(ValueError, match="columns"):
        gate(run, normal(rng, 2, 256), unequal)


def weight(name: str, rows: int, row_bytes: int, encoding: QuantizationEncoding):
    return Weight(
        name, DType.uint8, (rows, row_bytes), CPU_DEVICE, quantization_encoding=encoding
    )


def test_what_a_graph_refuses() -> None:
    """Operations that can't work are refused when the graph is built."""
    q4_k = QuantizationEncoding.Q4_K
    fitting, other = weight("a", 5, 288, q4_k), weight("b", 6, 288, q4_k)
    with (
        ensure_default_mlir_context(),
        Graph(
            "refusals",
            input_types=[
                TensorType(DType.float32, ("rows", 512), CPU_DEVICE),
                TensorType(DType.bfloat16, ("rows", 512), CPU_DEVICE),
            ],
            custom_extensions=[mojo_package(own.MOJO_PACKAGE)],
        ) as graph,
    ):
        x, low = (value.tensor for value in graph.inputs)
        with pytest.raises(ValueError, match="float32"):
            own.gguf_matmul(low, fitting)
        with pytest.raises(ValueError, match="don't hold a row of 512 weights"):
            own.gguf_matmul(x, weight("c", 5, 287, q4_k))
        with pytest.raises(ValueError, match="blocks"):
            own.gguf_matmul(x, weight("d", 5, 288, QuantizationEncoding.Q5_K))
        with pytest.raises(ValueError, match="a and b differ"):
            own.fused_gate_up_matmul(x, fitting, other)
        graph.output(
            own.gguf_matmul(x, fitting), own.fused_qkv_matmul(x, *[fitting] * 3)
        )


def test_the_plain_form_quantizes() -> None:
    x = np.linspace(-1, 1, 256, dtype=np.float32)[None]
    assert np.abs(quantized(x) - x).max() <= 1 / 254 + 1e-9
