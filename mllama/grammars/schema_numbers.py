"""Numbers of JSON schemas as grammars, within their bounds."""

from __future__ import annotations

import math
from typing import Any, Final

from mllama.grammars.json_text import integer_text, number_text
from mllama.grammars.nodes import Node, terminal
from mllama.grammars.numbers import digits_needed, integer_between, number_between
from mllama.grammars.schema_branch import Branch

MAX_BOUND_DIGITS: Final = 30
"""Digits of a number's bound before its point, and after it."""


def integer_grammar(branch: Branch) -> Node:
    """Returns the grammar of the integers that fit a branch.

    Raises:
        RequestError: If a keyword can't be honored.
    """
    factor = branch.keywords.get("multipleOf", 1)
    if factor != 1:
        raise branch.refuse("multipleOf", "is honored for integers and 1")
    low, high = _bounds(branch)
    if low is None and high is None:
        return terminal(integer_text())
    least = None if low is None else _next_integer(*low)
    most = None if high is None else -_next_integer(-high[0], high[1])
    return terminal(integer_between(least, most))


def number_grammar(branch: Branch) -> Node:
    """Returns the grammar of the numbers that fit a branch.

    Raises:
        RequestError: If a keyword can't be honored.
    """
    if "multipleOf" in branch.keywords:
        raise branch.refuse("multipleOf", "is honored for integers and 1")
    low, high = _bounds(branch)
    if low is None and high is None:
        return terminal(number_text())
    between = number_between(
        None if low is None else low[0],
        None if high is None else high[0],
        excludes_least=low is not None and low[1],
        excludes_most=high is not None and high[1],
    )
    return terminal(between)


_Bound = tuple[Any, bool]
"""A bound, and whether it excludes itself."""


def _bounds(branch: Branch) -> tuple[_Bound | None, _Bound | None]:
    """Returns the lower and the upper bound of numbers.

    Raises:
        RequestError: If one has too many digits.
    """
    found: list[_Bound | None] = []
    for keyword, excluding, sign in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        bounds = [
            (branch.keywords[name], name == excluding)
            for name in (keyword, excluding)
            if name in branch.keywords
        ]
        for value, excludes in bounds:
            if (isinstance(value, float) and not math.isfinite(value)) or digits_needed(
                value
            ) > MAX_BOUND_DIGITS:
                raise branch.refuse(
                    excluding if excludes else keyword,
                    f"must have at most {MAX_BOUND_DIGITS} digits before and after "
                    "the point",
                )
        # The narrower of both: the larger of minima, and at the same value the one that
        # excludes it.
        found.append(max(bounds, key=lambda b: (sign * b[0], b[1])) if bounds else None)
    return found[0], found[1]


def _next_integer(bound: Any, excludes: bool) -> int:
    """Returns the least integer from a lower bound on."""
    return math.floor(bound) + 1 if excludes else math.ceil(bound)
