"""Linear layers by the own operation against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, TensorValue
from scipy.special import erf

from mllama.kernels.choice import chosen_kernels, operations
from mllama.network.dense import OPERATIONS, dense_product

Array = np.ndarray
CPU_REF = DeviceRef.CPU()

pytestmark = pytest.mark.skipif(
    chosen_kernels() != "own", reason="own operations don't run on this CPU"
)

KINDS = ("plain", "gelu", "float16", "bfloat16")
"""Products of the one graph, with what is special about each."""


def _product(kind: str, inputs: list[TensorValue]) -> TensorValue:
    x, weight, *bias = inputs
    return dense_product(x, weight, bias[0] if bias else None, gelu=kind == "gelu")


class Products:
    """One graph of all kinds; those that aren't asked for get nothing to do."""

    def __init__(self) -> None:
        types = []
        for kind in KINDS:
            dtype = DType[kind] if kind.endswith("16") else DType.float32
            leading = ["images", "rows"] if kind == "gelu" else ["rows"]
            rows = [f"{name}_{kind}" for name in leading]
            depth, columns = f"depth_{kind}", f"columns_{kind}"
            types.append(
                [
                    TensorType(DType.float32, [*rows, depth], CPU_REF),
                    TensorType(dtype, [columns, depth], CPU_REF),
                    TensorType(DType.float32, [columns], CPU_REF),
                ][: 2 if kind == "plain" else 3]
            )

        def forward(*inputs: Any) -> tuple[TensorValue, ...]:
            values = iter(value.tensor for value in inputs)
            return tuple(
                _product(kind, [next(values) for _ in several])
                for kind, several in zip(KINDS, types, strict=True)
            )

        graph = Graph(
            "products",
            forward,
            input_types=[given for several in types for given in several],
            custom_extensions=[operations(OPERATIONS)],
        )
        self.model = InferenceSession(devices=[CPU()]).load(graph)

    def __call__(
        self, kind: str, x: Array, weight: Array, bias: Array | None = None
    ) -> Array:
        inputs: list[Any] = []
        for other in KINDS:
            if other == kind:
                inputs += [x, weight] if bias is None else [x, weight, bias]
                continue
            shape = (0, 0, 1) if other == "gelu" else (0, 1)
            inputs += [np.zeros(shape, "f4"), np.zeros((0, 1), "f4")]
            inputs += [] if other == "plain" else [np.zeros(0, "f4")]
            if other.endswith("16"):
                inputs[-2] = np.zeros((0, 1), "u2")
        buffers = []
        place = 0
        for other in KINDS:
            for index in range(2 if other == "plain" else 3):
                buffer = Buffer.from_numpy(inputs[place])
                if index == 1 and other.endswith("16"):
                    buffer = buffer.view(DType[other], buffer.shape)
                buffers.append(buffer)
                place += 1
        return np.array(self.model.execute(*buffers)[KINDS.index(kind)].to_numpy())


@pytest.fixture(scope="module")
def products() -> Products:
    return Products()


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def check(found: Array, x: Array, weight: Array, bias: Array | None = None) -> None:
    """To rounding: 1e-6 of the sum of the terms' sizes."""
    terms = np.abs(x.astype("f8")) @ np.abs(weight.T.astype("f8"))
    wanted = x.astype("f8") @ weight.T.astype("f8")
    if bias is not None:
        wanted, terms = wanted + bias, terms + np.abs(bias)
    assert found.shape == wanted.shape
    assert (np.abs(found - wanted) <= 1e-6 * terms + 1e-30).all()


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [
        (1, 1, 1),
        (1, 7, 5),
        (1, 1280, 1280),
        (2, 321, 24),
        (3, 5, 1000),
        (5, 640, 31),
        (11, 330, 8),
        (12, 320, 16),
        (13, 9, 17),
        (145, 1281, 41),
        (289, 63, 25),
        (611, 8, 7),
        (36, 4000, 600),
        (7, 20001, 230),
    ],
)
def test_any_shape(products: Products, rows: int, depth: int, columns: int) -> None:
    x, weight = normal(rows, depth), normal(columns, depth, seed=1)
    check(products("plain", x, weight), x, weight)


def test_random_shapes(products: Products) -> None:
    chance = np.random.default_rng(5)
    for seed in range(60):
        rows, depth, columns = (int(2 ** chance.uniform(0, 9)) for _ in range(3))
        x = normal(rows, depth, seed=seed)
        weight = normal(columns, depth, seed=seed + 100)
        check(products("plain", x, weight), x, weight)


@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (2, 77, 40, 53), (3, 50, 700, 96)])
def test_bias_and_gelu(products: Products, shape: tuple[int, ...]) -> None:
    images, rows, depth, columns = shape
    x = normal(images, rows, depth)
    weight, bias = normal(columns, depth, seed=1), normal(columns, seed=2)
    weight /= np.float32(np.sqrt(depth))
    sums = x.astype("f8") @ weight.T.astype("f8") + bias
    wanted = sums * 0.5 * (1 + erf(sums / np.sqrt(2)))
    np.testing.assert_allclose(
        products("gelu", x, weight, bias), wanted, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("columns", [1, 8, 37, 72])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_are_widened(products: Products, kind: str, columns: int) -> None:
    x, weight, bias = normal(30, 333), normal(columns, 333), normal(columns)
    if kind == "float16":
        halves: Array = weight.astype(np.float16).view(np.uint16)
        weight = weight.astype(np.float16).astype(np.float32)
    else:
        halves = (weight.view(np.uint32) >> 16).astype(np.uint16)
        weight = (halves.astype(np.uint32) << 16).view(np.float32)
    check(products(kind, x, halves, bias), x, weight, bias)


def test_an_unaligned_matrix(products: Products) -> None:
    x, weight = normal(20, 100), normal(50, 100, seed=1)
    memory = np.frombuffer(b"\0" + weight.tobytes(), np.uint8)[1:]
    check(products("plain", x, memory.view("<f4").reshape(50, 100)), x, weight)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 12, 24])
def test_what_is_not_finite_stays_in_its_row(
    products: Products, value: float, row: int
) -> None:
    x, weight = normal(25, 60), normal(41, 60, seed=1)
    x[row, 33] = value
    found = products("plain", x, weight)
    assert not np.isfinite(found[row]).any()
    others = np.arange(25) != row
    check(found[others], x[others], weight)


def test_what_is_not_finite_stays_in_its_column(products: Products) -> None:
    x, weight = normal(25, 60), normal(41, 60, seed=1)
    weight[40, 7] = np.nan
    found = products("plain", x, weight)
    assert np.isnan(found[:, 40]).all()
    check(found[:, :40], x, weight[:40])


def test_no_rows_no_columns_no_depth(products: Products) -> None:
    assert products("plain", normal(0, 5), normal(3, 5)).shape == (0, 3)
    assert products("plain", normal(4, 5), normal(0, 5)).shape == (4, 0)
    bias = normal(9)
    found = products("gelu", normal(1, 2, 0), normal(9, 0), bias)
    wanted = bias * 0.5 * (1 + erf(bias / np.sqrt(2)))
    np.testing.assert_allclose(found, np.broadcast_to(wanted, (1, 2, 9)), rtol=1e-5)


def test_a_matrix_that_does_not_fit_is_refused() -> None:
    def built(*types: TensorType) -> Callable[[], object]:
        return lambda: Graph(
            "refused",
            lambda *inputs: _product("plain", [value.tensor for value in inputs]),
            input_types=types,
            custom_extensions=[operations(OPERATIONS)],
        )

    floats = DType.float32
    x = TensorType(floats, ["rows", 8], CPU_REF)
    weight = TensorType(floats, [16, 8], CPU_REF)
    built(x, weight, TensorType(floats, [16], CPU_REF))()
    for wrong in [
        [x, TensorType(floats, [16, 9], CPU_REF)],
        [x, TensorType(DType.int8, [16, 8], CPU_REF)],
        [TensorType(DType.bfloat16, ["rows", 8], CPU_REF), weight],
        [x, weight, TensorType(floats, [8], CPU_REF)],
        [x, weight, TensorType(DType.float16, [16], CPU_REF)],
    ]:
        with pytest.raises(ValueError, match=r"no product|doesn't fit|a bias of"):
            built(*wrong)()
