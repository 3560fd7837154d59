"""Grammars of numbers between bounds.

A number with bounds is written without an exponent.  A bound that excludes itself
becomes the next floating-point number, since that is how a reader compares: of the
texts between the two, each is read as one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from mllama.grammars.characters import DIGITS, CharacterSet
from mllama.grammars.json_text import MAX_DIGITS
from mllama.grammars.nodes import (
    EMPTY,
    NOTHING,
    Literal,
    Node,
    alternatives,
    one_of,
    repeated,
    sequence,
)

Number = int | float

_DIGIT: Final = one_of(DIGITS)
_NOT_ZERO: Final = CharacterSet.of_text("123456789")


def integer_between(least: int | None, most: int | None) -> Node:
    """Returns the integers from one bound to another; None is no bound."""
    positive = NOTHING
    if most is None or most > 0:
        positive = _digits_between(
            str(max(1, least or 0)), None if most is None else str(most)
        )
    has_zero = (least is None or least <= 0) and (most is None or most >= 0)
    negative = NOTHING
    if least is None or least < 0:
        negative = _digits_between(
            str(max(1, -most if most is not None else 1)),
            None if least is None else str(-least),
        )
    zero = Literal("0") if has_zero else NOTHING
    options = [zero, positive, sequence("-", negative)]
    return alternatives(options)


def number_between(
    least: Number | None,
    most: Number | None,
    *,
    excludes_least: bool = False,
    excludes_most: bool = False,
) -> Node:
    """Returns the numbers from one bound to another, without exponents.

    Args:
        least: The lower bound; None is none.
        most: The upper bound; None is none.
        excludes_least: Whether numbers must be greater than the lower bound.
        excludes_most: Whether numbers must be less than the upper bound.
    """
    low = None if least is None else _decimal(least)
    high = None if most is None else _decimal(most)
    if excludes_least and least:
        low = _decimal(math.nextafter(least, math.inf))
    if excludes_most and most:
        high = _decimal(math.nextafter(most, -math.inf))
    above_zero = excludes_least and low == 0
    below_zero = excludes_most and high == 0
    options = []
    if high is None or high > 0 or (high == 0 and not below_zero):
        from_zero = Decimal(0) if low is None or low < 0 else low
        options.append(_decimals(from_zero, high, not_zero=above_zero))
    if low is None or low < 0:
        from_zero = Decimal(0) if high is None or high > 0 else -high
        up_to = None if low is None else -low
        negative = _decimals(from_zero, up_to, not_zero=below_zero)
        options.append(sequence("-", negative))
    return alternatives(options)


def digits_needed(number: Number) -> int:
    """Returns the digits of a bound before its point or after it, the more of both."""
    whole, _, fraction = format(_decimal(number), "f").lstrip("-").partition(".")
    return max(len(whole), len(fraction))


def _decimal(number: Number) -> Decimal:
    """Returns the decimal by which a number is written."""
    return Decimal(repr(number or 0))


def _decimals(low: Decimal, high: Decimal | None, *, not_zero: bool) -> Node:
    """Returns the decimals from ``low``, at least 0, to ``high``."""
    if high is not None and high < low:
        return NOTHING
    low_whole, low_fraction = _parts(low)
    if high is None:
        options = [sequence(low_whole, _fraction(low_fraction, None, not_zero))]
        options.append(
            sequence(_digits_between(str(int(low_whole) + 1), None), _any_fraction())
        )
        return alternatives(options)
    high_whole, high_fraction = _parts(high)
    if low_whole == high_whole:
        return sequence(low_whole, _fraction(low_fraction, high_fraction, not_zero))
    between = _digits_between(str(int(low_whole) + 1), str(int(high_whole) - 1))
    options = [
        sequence(low_whole, _fraction(low_fraction, None, not_zero)),
        sequence(between, _any_fraction()),
        sequence(high_whole, _fraction("", high_fraction, False)),
    ]
    return alternatives(options)


def _parts(number: Decimal) -> tuple[str, str]:
    """Returns the digits before a number's point, and after it without zeros at the
    end."""
    whole, _, fraction = format(number, "f").partition(".")
    return whole, fraction.rstrip("0")


def _any_fraction() -> Node:
    return repeated(sequence(".", repeated(_DIGIT, 1, MAX_DIGITS)), 0, 1)


def _fraction(low: str, high: str | None, not_zero: bool) -> Node:
    """Returns the digits after a point from ``low`` to ``high``, with the point.

    Args:
        low: The least digits; empty is 0.
        high: The greatest digits; None is any.
        not_zero: Whether some digit must not be 0.
    """
    if high is None and not low and not not_zero:
        return _any_fraction()
    digits = sequence(".", _fraction_digits(low, high, MAX_DIGITS, not_zero))
    if low or not_zero:
        return digits
    return digits if digits == NOTHING else repeated(digits, 0, 1)


def _fraction_digits(low: str, high: str | None, room: int, not_zero: bool) -> Node:
    """Returns one or more digits of a fraction between bounds.

    ``low`` and ``high`` are what is left of bounds that all digits so far equal; an
    empty ``high`` allows zeros only, None everything.
    """
    if room == 0:
        return NOTHING
    if high == "":
        return NOTHING if low or not_zero else repeated(Literal("0"), 1, room)
    if high is None and not low:
        if not not_zero:
            return repeated(_DIGIT, 1, room)
        zeros = repeated(Literal("0"), 0, room - 1)
        return sequence(zeros, one_of(_NOT_ZERO), repeated(_DIGIT, 0, room - 1))
    first = int(low[0]) if low else 0
    last = int(high[0]) if high else 9

    def rest(digit: int) -> Node:
        rest_low = low[1:] if low and digit == first else ""
        rest_high = high[1:] if high and digit == last else None
        rest_not_zero = not_zero and digit == 0
        more = _fraction_digits(rest_low, rest_high, room - 1, rest_not_zero)
        if rest_low or rest_not_zero:
            return more
        return EMPTY if more == NOTHING else repeated(more, 0, 1)

    return _grouped((digit, rest(digit)) for digit in range(first, last + 1))


def _digits_between(low: str, high: str | None) -> Node:
    """Returns the digits of the integers from ``low`` to ``high``, without zeros before
    them; ``high`` is None for no bound."""
    if high is None:
        options = [_same_length(low, "9" * len(low))]
        if len(low) < MAX_DIGITS:
            first = one_of(_NOT_ZERO)
            more = repeated(_DIGIT, len(low), MAX_DIGITS - 1)
            options.append(sequence(first, more))
        return alternatives(options)
    if int(low) > int(high):
        return NOTHING
    options = []
    for length in range(len(low), len(high) + 1):
        least = low if length == len(low) else "1" + "0" * (length - 1)
        greatest = high if length == len(high) else "9" * length
        options.append(_same_length(least, greatest))
    return alternatives(options)


def _same_length(low: str, high: str) -> Node:
    """Returns the digits between two of the same length."""
    if not low:
        return EMPTY
    if set(low) == {"0"} and set(high) == {"9"}:
        return repeated(_DIGIT, len(low), len(low))
    first, last = int(low[0]), int(high[0])

    def rest(digit: int) -> Node:
        rest_low = low[1:] if digit == first else "0" * (len(low) - 1)
        rest_high = high[1:] if digit == last else "9" * (len(high) - 1)
        return _same_length(rest_low, rest_high)

    return _grouped((digit, rest(digit)) for digit in range(first, last + 1))


def _grouped(options: Iterable[tuple[int, Node]]) -> Node:
    """Returns digits, each followed by its rest; those with the same rest as one."""
    heads: dict[Node, str] = {}
    for digit, rest in options:
        if rest != NOTHING:
            heads[rest] = heads.get(rest, "") + str(digit)
    return alternatives(
        sequence(one_of(CharacterSet.of_text(digits)), rest)
        for rest, digits in heads.items()
    )
