"""Padded attention by the own operation, and by MAX's, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, TensorValue

from mllama.kernels import dispatch
from mllama.kernels.dispatch import chosen_kernels, mojo_package, supports_bfloat16
from mllama.kernels.ops.attention import MOJO_PACKAGE
from mllama.nn.vision.attention import padded_attention
from tests.kernels.widths import KERNELS, use_kernels

Array = np.ndarray
CPU_REF = DeviceRef.CPU()
FLOATS = DType.float32

HEADS = ((8, 1), (80, 2), (24, 3))
"""Widths of heads and how many, each an operation of the one graph."""

pytestmark = pytest.mark.skipif(
    chosen_kernels() == "max", reason="own operations don't run on this CPU"
)


def _types(head_dim: int, heads: int) -> list[TensorType]:
    shape = [f"images_{head_dim}", f"rows_{head_dim}", head_dim * heads]
    return [
        *[TensorType(FLOATS, shape, CPU_REF)] * 3,
        TensorType(DType.int64, [f"real_{head_dim}"], CPU_REF),
        TensorType(DType.int64, [f"padding_{head_dim}"], CPU_REF),
    ]


def attention_graph(
    heads: tuple[tuple[int, int], ...] = HEADS,
    dtype: DType = FLOATS,
    *,
    rounds: bool = False,
) -> Graph:
    def forward(*inputs: Any) -> tuple[TensorValue, ...]:
        values = [value.tensor for value in inputs]
        outputs = []
        for index, (head_dim, _) in enumerate(heads):
            query, key, value, real, padding = values[5 * index : 5 * index + 5]
            states = [given.cast(dtype) for given in (query, key, value)]
            outputs.append(
                padded_attention(*states, real, padding, head_dim, rounds=rounds)
            )
        return tuple(outputs)

    return Graph(
        "attention",
        forward,
        input_types=[given for several in heads for given in _types(*several)],
        custom_extensions=[mojo_package(MOJO_PACKAGE)],
    )


class Attention:
    """One graph of all widths; those that aren't asked for get one row."""

    def __init__(self, *, rounds: bool = False) -> None:
        graph = attention_graph(rounds=rounds)
        self.model = InferenceSession(devices=[CPU()]).load(graph)

    def __call__(
        self, head_dim: int, query: Array, key: Array, value: Array, real: int
    ) -> Array:
        inputs: list[Array] = []
        for other, heads in HEADS:
            if other == head_dim:
                lengths = real, query.shape[1] - real
                inputs += [query, key, value, *(np.zeros(n, "i8") for n in lengths)]
            else:
                row = np.zeros((1, 1, other * heads), "f4")
                inputs += [row, row, row, np.zeros(1, "i8"), np.zeros(0, "i8")]
        outputs = self.model.execute(*inputs)
        place = [width for width, _ in HEADS].index(head_dim)
        return np.array(outputs[place].to_numpy())


@pytest.fixture(scope="module", params=KERNELS)
def attention(request: pytest.FixtureRequest) -> Attention:
    with use_kernels(request.param):
        return Attention()


@pytest.fixture(scope="module")
def rounding() -> Attention:
    """One whose factors may be rounded to bfloat16."""
    if not supports_bfloat16():
        pytest.skip("this CPU doesn't multiply in bfloat16")
    return Attention(rounds=True)


def reference(
    head_dim: int, query: Array, key: Array, value: Array, real: int
) -> Array:
    images, rows, width = query.shape
    shape = images, rows, width // head_dim, head_dim
    q, k, v = (
        given.astype("f8").reshape(shape).transpose(0, 2, 1, 3)
        for given in (query, key, value)
    )
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(head_dim)
    scores[:, :, real:, real:] = -np.inf
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = weights @ v / weights.sum(-1, keepdims=True)
    return attended.transpose(0, 2, 1, 3).reshape(images, rows, width)


def states(
    head_dim: int, images: int, rows: int, size: float = 1.0, seed: int = 0
) -> tuple[Array, ...]:
    width = dict(HEADS)[head_dim] * head_dim
    chance = np.random.default_rng(seed)
    query, key, value = chance.normal(0, 1, (3, images, rows, width))
    return tuple(given.astype("f4") for given in (query * size, key * size, value))


def check(attention: Attention, head_dim: int, given: Any, real: int) -> None:
    found = attention(head_dim, *given, real)
    wanted = reference(head_dim, *given, real)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6)


NUMBERS = (
    (1, 1, 1),
    (1, 2, 1),
    (1, 13, 13),
    (3, 25, 1),
    (1, 240, 239),
    (2, 241, 240),
    (1, 500, 7),
    (2, 399, 250),
    (1, 1300, 777),
)
"""Images, rows, and how many of these are real."""

any_number = pytest.mark.parametrize(("images", "rows", "real"), NUMBERS)


@pytest.mark.parametrize("head_dim", [head_dim for head_dim, _ in HEADS])
@any_number
def test_any_number_of_rows(
    attention: Attention, head_dim: int, images: int, rows: int, real: int
) -> None:
    check(attention, head_dim, states(head_dim, images, rows), real)


def test_random_shapes(attention: Attention) -> None:
    chance = np.random.default_rng(3)
    for seed in range(40):
        rows = int(2 ** chance.uniform(0, 10))
        real = int(chance.integers(1, rows + 1))
        given = states(80, int(chance.integers(1, 4)), rows, seed=seed)
        check(attention, 80, given, real)


@pytest.mark.parametrize("size", [0.0, 1e-3, 5.0, 20.0])
def test_flat_and_steep_weights(attention: Attention, size: float) -> None:
    """Scores that are all equal, and some that leave one key alone."""
    given = states(80, 1, 700, size)
    # A score has an error of its own size, which its power of e multiplies.
    tolerance = 3e-6 + 4e-6 * size**2
    found = attention(80, *given, 600)
    np.testing.assert_allclose(
        found, reference(80, *given, 600), rtol=0, atol=tolerance
    )


def test_scores_that_grow_from_block_to_block(attention: Attention) -> None:
    query, key, value = states(24, 1, 1000)
    key *= np.linspace(0, 10, 1000, dtype="f4")[:, None]
    query[:] = np.abs(query)
    key[:] = np.abs(key)
    found = attention(24, query, key, value, 900)
    wanted = reference(24, query, key, value, 900)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_large_scores_do_not_overflow(attention: Attention) -> None:
    query, key, value = states(8, 1, 300, 1e4)
    found = attention(8, query, key, value, 300)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= np.abs(value).max() * 1.000001


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 17, 299])
def test_a_query_that_is_not_finite_stays_alone(
    attention: Attention, value: float, row: int
) -> None:
    given = states(80, 1, 300)
    given[0][0, row, 3] = value
    found = attention(80, *given, 280)
    wanted = reference(80, *given, 280)
    assert np.isnan(found[0, row, :80]).all()
    others = np.arange(300) != row
    np.testing.assert_allclose(found[:, others], wanted[:, others], rtol=0, atol=3e-6)
    np.testing.assert_allclose(
        found[0, row, 80:], wanted[0, row, 80:], rtol=0, atol=3e-6
    )


def test_a_padding_row_that_is_not_finite_reaches_no_padding(
    attention: Attention,
) -> None:
    given = states(80, 1, 300)
    given[1][0, 290] = np.nan
    given[2][0, 290] = np.nan
    found = attention(80, *given, 200)
    assert np.isnan(found[0, :200]).all()
    wanted = reference(80, *states(80, 1, 300), 200)
    np.testing.assert_allclose(found[0, 200:], wanted[0, 200:], rtol=0, atol=3e-6)


def test_without_real_rows_there_is_nothing_to_see(attention: Attention) -> None:
    assert not attention(8, *states(8, 2, 30), 0).any()


@any_number
def test_rounded_factors_change_little(
    rounding: Attention, images: int, rows: int, real: int
) -> None:
    """bfloat16 has 8 bits: factors are off by at most 2^-9 of themselves."""
    given = states(80, images, rows)
    off = rounding(80, *given, real) - reference(80, *given, real)
    assert np.abs(off).max() < 2**-9 * 5 * np.abs(given[2]).max()
    assert np.sqrt(np.square(off).mean()) < 2**-8
    # They are rounded, which a sum of float32 products isn't.
    assert np.abs(off).max() > 1e-4


def test_where_factors_are_rounded_padding_sees_real_rows_alone(
    rounding: Attention,
) -> None:
    """Also the padding row that makes up a pair with the last real one."""
    given = states(80, 1, 300)
    wanted = rounding(80, *given, 201)
    given[1][0, 201:] = np.nan
    given[2][0, 201:] = np.inf
    found = rounding(80, *given, 201)
    assert np.isnan(found[0, :201]).all()
    np.testing.assert_array_equal(found[0, 201:], wanted[0, 201:])


def test_a_query_that_is_not_finite_stays_alone_where_factors_are_rounded(
    rounding: Attention,
) -> None:
    given = states(80, 1, 300)
    wanted = rounding(80, *given, 280)
    given[0][0, 17, 3] = np.nan
    found = rounding(80, *given, 280)
    assert np.isnan(found[0, 17, :80]).all()
    others = np.arange(300) != 17
    np.testing.assert_array_equal(found[:, others], wanted[:, others])
    np.testing.assert_array_equal(found[0, 17, 80:], wanted[0, 17, 80:])


def test_heads_without_whole_vectors_are_not_rounded(rounding: Attention) -> None:
    check(rounding, 24, states(24, 2, 250), 200)


def test_wrong_shapes_are_refused() -> None:
    for wrong, head_dim in [
        ([(2, 9, 80), (2, 8, 80), (2, 9, 80)], 80),
        ([(2, 9, 80)] * 3, 24),
    ]:
        with pytest.raises(ValueError, match=r"differ|no multiple"):
            Graph(
                "refused",
                lambda *inputs, head_dim=head_dim: padded_attention(
                    *(value.tensor for value in inputs), head_dim
                ),
                input_types=[
                    *(TensorType(FLOATS, shape, CPU_REF) for shape in wrong),
                    *(TensorType(DType.int64, [n], CPU_REF) for n in (4, 5)),
                ],
            )


@pytest.mark.parametrize(
    ("head_dim", "dtype", "kernels"),
    [
        (12, FLOATS, "auto"),
        (16, DType.bfloat16, "auto"),
        (16, FLOATS, "max"),
        (16, FLOATS, "auto"),
    ],
)
def test_what_own_operations_do_not_do_is_left_to_max(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, dtype: DType, kernels: str
) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, kernels)
    graph = str(attention_graph(((head_dim, 2),), dtype))
    is_own = (head_dim, dtype, kernels) == (16, FLOATS, "auto")
    assert ("mllama_patch_attention" in graph) == is_own
