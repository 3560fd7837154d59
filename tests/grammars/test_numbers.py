"""Numbers between bounds: texts of the grammar are within, and all within are texts."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mllama.grammars.nodes import NOTHING
from mllama.grammars.numbers import integer_between, number_between
from tests.grammars.node_regex import matches, regex_of

INTEGERS = st.integers(-2000, 2000) | st.integers(-(10**20), 10**20)
FLOATS = (
    st.integers(-200, 200)
    | st.floats(-1e6, 1e6).filter(lambda each: each == 0 or abs(each) > 1e-9)
    | st.integers(-300, 300).map(lambda each: each / 100)
)
BOUNDS = st.none() | FLOATS


@settings(max_examples=300, deadline=None)
@given(st.none() | INTEGERS, st.none() | INTEGERS, st.lists(INTEGERS, max_size=20))
def test_integers_between_bounds(
    least: int | None, most: int | None, values: list[int]
) -> None:
    node = integer_between(least, most)
    near = [b + d for b in (least, most) if b is not None for d in (-1, 0, 1)]
    for value in [*values, *near]:
        fits = (least is None or value >= least) and (most is None or value <= most)
        assert matches(node, json.dumps(value)) == fits, regex_of(node)
    for text in ("-0", "00", "01", "", "-", "1.0", "+1", "1e1"):
        assert not matches(node, text)


@settings(max_examples=500, deadline=None)
@given(BOUNDS, BOUNDS, st.booleans(), st.booleans(), st.lists(FLOATS, max_size=20))
@example(0, None, True, False, [1e-9, 0.0])
@example(0.1, 0.3, True, True, [0.2])
@example(-0.5, 0, False, True, [-0.25])
@example(1, 1, False, False, [1.0])
@example(1, 1, True, False, [1.0])
def test_numbers_between_bounds(
    least: float | None,
    most: float | None,
    excludes_least: bool,
    excludes_most: bool,
    values: list[float],
) -> None:
    node = number_between(
        least, most, excludes_least=excludes_least, excludes_most=excludes_most
    )
    near = [b for b in (least, most) if b is not None]
    near += [b + d for b in near for d in (-1, -0.01, 0.01, 1)]
    for value in [*values, *near]:
        fits = (
            least is None or (value > least if excludes_least else value >= least)
        ) and (most is None or (value < most if excludes_most else value <= most))
        text = format(Decimal(repr(value)), "f")
        if text.startswith("-0") and not text.strip("-0."):
            continue
        assert matches(node, text) == fits, (text, regex_of(node))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-50, 50).map(lambda each: each / 10),
    st.booleans(),
    st.text("0123456789", min_size=1, max_size=30),
)
def test_long_fractions_are_read_within_an_excluded_bound(
    bound: float, is_least: bool, digits: str
) -> None:
    node = number_between(
        bound if is_least else None,
        None if is_least else bound,
        excludes_least=True,
        excludes_most=True,
    )
    whole = json.dumps(bound).split(".")[0]
    for text in (f"{whole}.{digits}", f"{json.dumps(bound)}{digits}"):
        if matches(node, text):
            value = json.loads(text)
            assert value > bound if is_least else value < bound


@pytest.mark.parametrize("bounds", [(2, 1), (0.5, 0.25)])
def test_no_number_is_between_reversed_bounds(bounds: tuple[float, float]) -> None:
    assert number_between(*bounds) == NOTHING


def test_no_integer_is_between_reversed_bounds() -> None:
    assert integer_between(3, 1) == NOTHING
