"""A leak is told from noise."""

from __future__ import annotations

import random

import pytest

from .samples import growth


@pytest.mark.parametrize("leak", [0.0, 60.0, -60.0])
def test_growth_is_found_under_noise_and_outliers(leak: float) -> None:
    noise = random.Random(0)
    points = [
        (
            time,
            500
            + leak * time / 600
            + noise.uniform(-5, 5)
            + (300 if time % 130 == 0 else 0),
        )
        for time in range(0, 601, 10)
    ]
    assert growth(points) == pytest.approx(leak, abs=5)


def test_a_single_value_has_no_growth() -> None:
    assert growth([(1.0, 5.0)]) == 0
