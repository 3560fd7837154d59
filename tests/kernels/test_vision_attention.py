"""Compares attention among patches, the custom op and MAX's, with NumPy in float64."""

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
from tests.kernels.simd_widths import KERNELS, use_kernels

Array = np.ndarray
CPU_REF = DeviceRef.CPU()
FLOATS = DType.float32

HEADS = ((8, 1), (80, 2), (24, 3))
"""Widths and numbers of heads, each with an op of its own in the graph."""

pytestmark = pytest.mark.skipif(
    chosen_kernels() == "max", reason="this CPU doesn't support the custom ops"
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
    bfloat16: bool = False,
) -> Graph:
    def forward(*inputs: Any) -> tuple[TensorValue, ...]:
        values = [value.tensor for value in inputs]
        outputs = []
        for index, (head_dim, _) in enumerate(heads):
            query, key, value, real, padding = values[5 * index : 5 * index + 5]
            states = [given.cast(dtype) for given in (query, key, value)]
            outputs.append(
                padded_attention(
                    *states, real, padding, head_dim, allow_bfloat16=bfloat16
                )
            )
        return tuple(outputs)

    return Graph(
        "attention",
        forward,
        input_types=[given for several in heads for given in _types(*several)],
        custom_extensions=[mojo_package(MOJO_PACKAGE)],
    )


class Attention:
    """A graph with an op for every head width; the others get one patch."""

    def __init__(self, *, bfloat16: bool = False) -> None:
        graph = attention_graph(bfloat16=bfloat16)
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
                patch = np.zeros((1, 1, other * heads), "f4")
                inputs += [patch, patch, patch, np.zeros(1, "i8"), np.zeros(0, "i8")]
        outputs = self.model.execute(*inputs)
        index = [width for width, _ in HEADS].index(head_dim)
        return np.array(outputs[index].to_numpy())


@pytest.fixture(scope="module", params=KERNELS)
def attention(request: pytest.FixtureRequest) -> Attention:
    with use_kernels(request.param):
        return Attention()


@pytest.fixture(scope="module")
def bfloat16_attention() -> Attention:
    """Attention that may round its factors to bfloat16."""
    if not supports_bfloat16():
        pytest.skip("this CPU doesn't multiply in bfloat16")
    return Attention(bfloat16=True)


def reference(
    head_dim: int, query: Array, key: Array, value: Array, real: int
) -> Array:
    images, patches, width = query.shape
    shape = images, patches, width // head_dim, head_dim
    q, k, v = (
        given.astype("f8").reshape(shape).transpose(0, 2, 1, 3)
        for given in (query, key, value)
    )
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(head_dim)
    scores[:, :, real:, real:] = -np.inf
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = weights @ v / weights.sum(-1, keepdims=True)
    return attended.transpose(0, 2, 1, 3).reshape(images, patches, width)


def states(
    head_dim: int, images: int, patches: int, size: float = 1.0, seed: int = 0
) -> tuple[Array, ...]:
    width = dict(HEADS)[head_dim] * head_dim
    rng = np.random.default_rng(seed)
    query, key, value = rng.normal(0, 1, (3, images, patches, width))
    return tuple(given.astype("f4") for given in (query * size, key * size, value))


def check(attention: Attention, head_dim: int, given: Any, real: int) -> None:
    actual = attention(head_dim, *given, real)
    expected = reference(head_dim, *given, real)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6)


SIZES = (
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
"""Images, patches, and how many of the patches are real."""

each_size = pytest.mark.parametrize(("images", "patches", "real"), SIZES)


@pytest.mark.parametrize("head_dim", [head_dim for head_dim, _ in HEADS])
@each_size
def test_attention_matches_numpy_for_any_number_of_patches(
    attention: Attention, head_dim: int, images: int, patches: int, real: int
) -> None:
    check(attention, head_dim, states(head_dim, images, patches), real)


def test_attention_matches_numpy_for_random_shapes(attention: Attention) -> None:
    rng = np.random.default_rng(3)
    for seed in range(40):
        patches = int(2 ** rng.uniform(0, 10))
        real = int(rng.integers(1, patches + 1))
        given = states(80, int(rng.integers(1, 4)), patches, seed=seed)
        check(attention, 80, given, real)


@pytest.mark.parametrize("size", [0.0, 1e-3, 5.0, 20.0])
def test_attention_matches_numpy_for_flat_and_steep_weights(
    attention: Attention, size: float
) -> None:
    """Scores may be all equal, or leave all weight to one key."""
    given = states(80, 1, 700, size)
    # The error of a score grows with the score, and its exponential multiplies it.
    tolerance = 3e-6 + 4e-6 * size**2
    actual = attention(80, *given, 600)
    np.testing.assert_allclose(
        actual, reference(80, *given, 600), rtol=0, atol=tolerance
    )


def test_attention_matches_numpy_if_scores_grow_with_each_block(
    attention: Attention,
) -> None:
    query, key, value = states(24, 1, 1000)
    key *= np.linspace(0, 10, 1000, dtype="f4")[:, None]
    query[:] = np.abs(query)
    key[:] = np.abs(key)
    actual = attention(24, query, key, value, 900)
    expected = reference(24, query, key, value, 900)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_large_scores_do_not_overflow(attention: Attention) -> None:
    query, key, value = states(8, 1, 300, 1e4)
    actual = attention(8, query, key, value, 300)
    assert np.isfinite(actual).all()
    assert np.abs(actual).max() <= np.abs(value).max() * 1.000001


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("patch", [0, 17, 299])
def test_a_non_finite_query_affects_only_its_own_output(
    attention: Attention, value: float, patch: int
) -> None:
    given = states(80, 1, 300)
    given[0][0, patch, 3] = value
    actual = attention(80, *given, 280)
    expected = reference(80, *given, 280)
    assert np.isnan(actual[0, patch, :80]).all()
    others = np.arange(300) != patch
    np.testing.assert_allclose(
        actual[:, others], expected[:, others], rtol=0, atol=3e-6
    )
    np.testing.assert_allclose(
        actual[0, patch, 80:], expected[0, patch, 80:], rtol=0, atol=3e-6
    )


def test_non_finite_padding_does_not_affect_other_padding(
    attention: Attention,
) -> None:
    given = states(80, 1, 300)
    given[1][0, 290] = np.nan
    given[2][0, 290] = np.nan
    actual = attention(80, *given, 200)
    assert np.isnan(actual[0, :200]).all()
    expected = reference(80, *states(80, 1, 300), 200)
    np.testing.assert_allclose(actual[0, 200:], expected[0, 200:], rtol=0, atol=3e-6)


def test_without_real_patches_the_output_is_zero(attention: Attention) -> None:
    assert not attention(8, *states(8, 2, 30), 0).any()


@each_size
def test_bfloat16_changes_the_output_little(
    bfloat16_attention: Attention, images: int, patches: int, real: int
) -> None:
    """bfloat16 has 8 bits: the relative error of factors is at most 2^-9."""
    given = states(80, images, patches)
    off = bfloat16_attention(80, *given, real) - reference(80, *given, real)
    assert np.abs(off).max() < 2**-9 * 5 * np.abs(given[2]).max()
    assert np.sqrt(np.square(off).mean()) < 2**-8
    # The error proves that factors are rounded.
    assert np.abs(off).max() > 1e-4


def test_padding_attends_only_to_real_patches_in_bfloat16(
    bfloat16_attention: Attention,
) -> None:
    """This includes the padding that forms a pair with the last real patch."""
    given = states(80, 1, 300)
    expected = bfloat16_attention(80, *given, 201)
    given[1][0, 201:] = np.nan
    given[2][0, 201:] = np.inf
    actual = bfloat16_attention(80, *given, 201)
    assert np.isnan(actual[0, :201]).all()
    np.testing.assert_array_equal(actual[0, 201:], expected[0, 201:])


def test_a_non_finite_query_affects_only_its_own_output_in_bfloat16(
    bfloat16_attention: Attention,
) -> None:
    given = states(80, 1, 300)
    expected = bfloat16_attention(80, *given, 280)
    given[0][0, 17, 3] = np.nan
    actual = bfloat16_attention(80, *given, 280)
    assert np.isnan(actual[0, 17, :80]).all()
    others = np.arange(300) != 17
    np.testing.assert_array_equal(actual[:, others], expected[:, others])
    np.testing.assert_array_equal(actual[0, 17, 80:], expected[0, 17, 80:])


def test_heads_without_whole_vectors_stay_in_float32(
    bfloat16_attention: Attention,
) -> None:
    check(bfloat16_attention, 24, states(24, 2, 250), 200)


def test_inconsistent_shapes_raise() -> None:
    for shapes, head_dim in [
        ([(2, 9, 80), (2, 8, 80), (2, 9, 80)], 80),
        ([(2, 9, 80)] * 3, 24),
    ]:
        with pytest.raises(ValueError, match=r"differ|not a multiple"):
            Graph(
                "refused",
                lambda *inputs, head_dim=head_dim: padded_attention(
                    *(value.tensor for value in inputs), head_dim
                ),
                input_types=[
                    *(TensorType(FLOATS, shape, CPU_REF) for shape in shapes),
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
def test_unsupported_heads_and_types_use_maxs_ops(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, dtype: DType, kernels: str
) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, kernels)
    graph = str(attention_graph(((head_dim, 2),), dtype))
    is_custom = (head_dim, dtype, kernels) == (16, FLOATS, "auto")
    assert ("mllama_patch_attention" in graph) == is_custom
