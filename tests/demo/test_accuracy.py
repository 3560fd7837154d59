"""The demo model's accuracy, measured through the whole pipeline."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from demo.evaluate import run
from mllama.kernels import dispatch

SEED, COUNT = 1234, 480
TOLERANCE = 0.015
"""Twice the standard error of 480 questions at 0.97."""


ENCODINGS: dict[str, dict[str, str]] = {
    "float32": {},
    "q4_k": {"quantization_encoding": "q4_k"},
    "int8": {"vision_encoding": "int8"},
    "image cache in int8": {"image_cache_encoding": "int8"},
    "KV cache in int8": {"kv_cache_encoding": "int8"},
}


@cache
def measured(encoding: str) -> dict[str, Any]:
    if "int8" in encoding and dispatch.chosen_kernels() == dispatch.MAX:
        pytest.skip("this CPU lacks what the custom ops need")
    return run(SEED, COUNT, devices="cpu", max_batch_size=8, **ENCODINGS[encoding])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_answers_come_from_the_pictures(encoding: str) -> None:
    result = measured(encoding)
    assert result["accuracy"] >= 0.95 - TOLERANCE
    assert result["blind_accuracy"] < result["accuracy"] / 2
    # 40 questions of each kind.
    assert min(result["by_kind"].values()) >= 0.8


@pytest.mark.parametrize(
    "encoding", ["q4_k", "int8", "image cache in int8", "KV cache in int8"]
)
def test_quantized_it_is_as_good(encoding: str) -> None:
    lost = measured("float32")["accuracy"] - measured(encoding)["accuracy"]
    assert lost <= 0.02
