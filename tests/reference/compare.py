"""Compares two answers, and reports where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The promised error of float32 logits against transformers.
FLOAT32_TOLERANCE = 1e-3


def max_relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns max |actual - expected| / max |expected|.

    The error is relative to the largest value of the array rather than to each value,
    since a logit near zero is no more precise than its neighbors.
    """
    if actual.shape != expected.shape:
        raise AssertionError(
            f"shapes differ: {actual.shape}, expected {expected.shape}"
        )
    if expected.size == 0:
        raise AssertionError("nothing to compare: the arrays are empty")
    scale = float(np.max(np.abs(expected.astype(np.float64))))
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    return float(np.max(difference)) / max(scale, np.finfo(np.float64).tiny)


def assert_close(
    actual: np.ndarray,
    expected: np.ndarray,
    *,
    what: str,
    tolerance: float = FLOAT32_TOLERANCE,
) -> float:
    """Asserts that ``max_relative_error`` is within ``tolerance``, and returns it.

    The message gives ``what``, the position and values of the largest difference, and
    the number of rows (all axes but the last) that are off, which distinguishes a wrong
    row from noise.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise AssertionError(
            f"{what}: shape {actual.shape}, the reference has {expected.shape}"
        )
    if not np.isfinite(expected).all():
        raise AssertionError(f"{what}: the reference itself is not finite")
    bad = np.argwhere(~np.isfinite(actual))
    if len(bad):
        raise AssertionError(
            f"{what}: {len(bad)} of {actual.size} values are not finite, "
            f"the first at {tuple(int(i) for i in bad[0])}"
        )
    error = max_relative_error(actual, expected)
    if error <= tolerance:
        return error
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    scale = float(np.max(np.abs(expected)))
    worst = np.unravel_index(int(np.argmax(difference)), difference.shape)
    position = tuple(int(i) for i in worst)
    rows = difference.reshape(-1, difference.shape[-1]).max(axis=-1) / scale
    off = np.flatnonzero(rows > tolerance)
    raise AssertionError(
        f"{what}: relative error {error:.2e} exceeds {tolerance:.0e}; worst at "
        f"{position}: "
        f"{float(actual[worst]):.6g}, the reference has {float(expected[worst]):.6g} "
        f"(largest value {scale:.4g}); {len(off)} of {len(rows)} rows off, "
        f"first rows {off[:8].tolist()}"
    )


def spread_error(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns each row's root mean squared error over its standard deviation.

    This measures rounding, which is small everywhere and largest for large values.
    """
    error = np.sqrt(((actual - expected) ** 2).mean(axis=-1))
    relative: np.ndarray = error / expected.std(axis=-1)
    return relative


def argmax_margin(logits: np.ndarray) -> float:
    """Returns the smallest lead of the best over the second-best token in any row."""
    top = np.partition(logits.reshape(-1, logits.shape[-1]), -2, axis=-1)[:, -2:]
    return float(np.min(top[:, 1] - top[:, 0]))


def assert_same_tokens(
    actual: Sequence[int],
    expected: Sequence[int],
    *,
    what: str,
    logits: np.ndarray | None = None,
) -> None:
    """Asserts that tokens are equal, and reports the first that differs.

    ``logits`` are the reference's, one row per token.  With them, the message gives the
    reference's lead at that position, which distinguishes a near tie from an error.
    """
    got, want = [int(t) for t in actual], [int(t) for t in expected]
    if got == want:
        return
    shorter = min(len(got), len(want))
    position = next((i for i in range(shorter) if got[i] != want[i]), shorter)
    lead = ""
    if logits is not None and position < len(logits):
        lead = f" (the reference's lead there: {argmax_margin(logits[position]):.4g})"
    raise AssertionError(
        f"{what}: tokens differ from number {position} on{lead}: "
        f"{got[position : position + 8]}, the reference has "
        f"{want[position : position + 8]}; "
        f"{len(got)} tokens, the reference {len(want)}"
    )
