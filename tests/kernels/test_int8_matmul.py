"""Products with bytes against plain NumPy."""

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
from tests.kernels import int8_matmul as plain
from tests.kernels.widths import KERNELS, use_kernels

Array = np.ndarray
HOST = DeviceRef.CPU()

needs_own = pytest.mark.skipif(
    not dispatch.uses_custom_ops(HOST), reason="this CPU lacks what own operations need"
)


KINDS = [(kernels, adds) for kernels in KERNELS for adds in (False, True)]


class Products:
    """One graph with the operation for every width of vectors, with something added and
    without; those that aren't asked for get no rows."""

    def __init__(self) -> None:
        types: list[Any] = []
        for kernels, adds in KINDS:
            name = f"_{kernels}_{adds}"
            types += [
                TensorType(DType.float32, [f"rows{name}", f"width{name}"], HOST),
                TensorType(DType.int8, [f"tiles{name}", f"bytes{name}"], HOST),
                TensorType(DType.float32, [f"columns{name}"], HOST),
                TensorType(DType.float32, [f"added{name}", f"sums{name}"], HOST),
            ]
        with Graph(
            "int8_matmuls",
            input_types=types,
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        ) as graph:
            outputs = []
            for index, (kernels, adds) in enumerate(KINDS):
                x, weights, scales, added = (
                    value.tensor for value in graph.inputs[4 * index : 4 * index + 4]
                )
                with use_kernels(kernels):
                    outputs.append(
                        int8_matmul.int8_matmul(
                            x, weights, scales, added if adds else None
                        )
                    )
            graph.output(*outputs)
        self.model: Model = InferenceSession(devices=[CPU()]).load(graph)

    def __call__(
        self, kernels: str, x: Array, weights: Array, added: Array | None = None
    ) -> Array:
        """``x @ weights.T + added`` with vectors of a width."""
        return self.of_bytes(kernels, x, *quantize_int8(weights), added)

    def of_bytes(
        self,
        kernels: str,
        x: Array,
        levels: Array,
        scales: Array,
        added: Array | None = None,
    ) -> Array:
        """The same with a matrix of bytes; one row is added to all."""
        wanted = (kernels, added is not None)
        inputs: list[Array] = []
        for kind in KINDS:
            if kind == wanted:
                addend = scales[None] if added is None else np.atleast_2d(added)
                inputs += [x, levels, scales, addend]
            else:
                nothing = np.zeros((1, 16), np.float32)
                some = np.zeros((1, 256), np.int8)
                inputs += [nothing[:0], some, nothing[0], nothing]
        return self.model.execute(*inputs)[KINDS.index(wanted)].to_numpy()


@pytest.fixture(scope="module")
def products() -> Products:
    if not dispatch.uses_custom_ops(HOST):
        pytest.skip("this CPU lacks what own operations need")
    return Products()


def matrices(
    seed: int, rows: int, width: int, columns: int
) -> tuple[Array, Array, Array]:
    """Rows whose sizes differ, as those of a matrix do, and a bias."""
    chance = np.random.default_rng(seed)
    x = chance.normal(0, 1, (rows, width)) * chance.uniform(0.1, 9, (rows, 1))
    weights = chance.normal(0, 1, (columns, width)) * chance.uniform(
        0.01, 0.1, (columns, 1)
    )
    bias = chance.normal(0, 1, columns)
    return x.astype("f4"), weights.astype("f4"), bias.astype("f4")


def check(found: Array, wanted: Array, x: Array) -> None:
    """Equal but for rounding of sums; a value half way between two may go either."""
    spread = np.abs(x).max() * 0.5
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * spread)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("added", ["nothing", "a row", "rows"])
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 11, 12, 13, 95, 96, 97, 230])
def test_any_number_of_rows(
    products: Products, kernels: str, added: str, rows: int
) -> None:
    x, weights, bias = matrices(rows, rows, 48, 80)
    sums = np.random.default_rng(rows).normal(0, 9, (rows, 80)).astype(np.float32)
    given = {"nothing": None, "a row": bias, "rows": sums}[added]
    found = products(kernels, x, weights, given)
    assert found.shape == (rows, 80)
    if rows:
        check(found, plain.product(x, weights, given), x)


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    width=st.integers(1, 40),
    columns=st.integers(1, 8),
)
def test_random_shapes(
    products: Products, kernels: str, seed: int, rows: int, width: int, columns: int
) -> None:
    x, weights, bias = matrices(seed, rows, 16 * width, 16 * columns)
    check(products(kernels, x, weights, bias), plain.product(x, weights, bias), x)


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_largest_bytes_do_not_saturate(products: Products, kernels: str) -> None:
    x = np.full((13, 7680), -2.0, np.float32)
    weights = np.full((48, 7680), -0.5, np.float32)
    x[:, ::2] = 2
    weights[:, ::2] = 0.5
    np.testing.assert_allclose(products(kernels, x, weights), 7680, rtol=1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_in_its_row(
    products: Products, kernels: str, value: float
) -> None:
    x, weights, _ = matrices(1, 30, 64, 32)
    wanted = plain.product(x, weights)
    x[5, 17] = value
    found = products(kernels, x, weights)
    assert np.isnan(found[5]).all()
    others = np.arange(30) != 5
    check(found[others], wanted[others], x[others])


@pytest.mark.parametrize("kernels", KERNELS)
def test_zeros_and_tiny_values(products: Products, kernels: str) -> None:
    x, weights, bias = matrices(2, 3, 32, 16)
    x[0], x[1], weights[4] = 0, 1e-38, 0
    found = products(kernels, x, weights, bias)
    np.testing.assert_array_equal(found[:2], np.broadcast_to(bias, (2, 16)))
    assert found[2, 4] == bias[4]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("shape", "levels", "scales", "message"),
    [
        ((2, 24), (1, 256), 16, "widths of activations and weights"),
        ((2, 32), (1, 256), 16, "widths of activations and weights"),
        ((2, 16), (1, 256), 32, "shapes of weights, scales and result"),
    ],
)
def test_contradictions_are_refused(
    products: Products,
    kernels: str,
    shape: tuple[int, int],
    levels: tuple[int, int],
    scales: int,
    message: str,
) -> None:
    x = np.zeros(shape, np.float32)
    with pytest.raises(Exception, match=message):
        products.of_bytes(
            kernels, x, np.zeros(levels, np.int8), np.ones(scales, np.float32)
        )


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("shape", [(2, 32), (4, 32), (0, 32), (3, 16), (1, 16)])
def test_what_is_added_must_fit(
    products: Products, kernels: str, shape: tuple[int, int]
) -> None:
    x, weights, _ = matrices(4, 3, 16, 32)
    with pytest.raises(Exception, match="shapes of result and addend differ"):
        products(kernels, x, weights, np.zeros(shape, np.float32))


def test_bytes_are_the_nearest() -> None:
    _, weights, _ = matrices(3, 1, 64, 32)
    levels, scales = quantize_int8(weights)
    tiles = levels.reshape(2, 16, 16, 4).transpose(0, 2, 1, 3).reshape(32, 64)
    assert np.abs(tiles * scales[:, None] - weights).max() <= scales.max() / 2 * 1.001
    assert np.abs(levels.astype(int)).max() == 127


@needs_own
def test_what_it_suits() -> None:
    assert supports(1280, 5120, DType.float32, HOST)
    assert not supports(1280, 5120, DType.bfloat16, HOST)
    assert not supports(1288, 5120, DType.float32, HOST)
    assert not supports(1280, 5121, DType.float32, HOST)
    assert not supports(1280, 5120, DType.float32, DeviceRef.GPU(0))
