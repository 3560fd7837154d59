"""What the demo model gets right, measured through the whole pipeline."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from mllama.demo.evaluate import run

SEED, COUNT = 1234, 480
CHANCE = 0.015
"""Twice the standard error of 480 questions at 0.97."""


@cache
def measured(encoding: str | None) -> dict[str, Any]:
    return run(
        SEED, COUNT, quantization_encoding=encoding, devices="cpu", max_batch_size=8
    )


@pytest.mark.parametrize("encoding", [None, "q4_k"])
def test_it_sees(encoding: str | None) -> None:
    result = measured(encoding)
    assert result["accuracy"] >= 0.95 - CHANCE
    assert result["blind_accuracy"] < result["accuracy"] / 2
    # 40 questions of each kind.
    assert min(result["by_kind"].values()) >= 0.8


def test_quantised_it_is_as_good() -> None:
    lost = measured(None)["accuracy"] - measured("q4_k")["accuracy"]
    assert lost <= 0.02
