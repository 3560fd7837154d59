"""Conversion to bfloat16 rounds as torch does."""

from __future__ import annotations

import numpy as np
import torch

from mllama.utils.bfloat16 import from_bfloat16, to_bfloat16


def test_rounds_to_nearest_even() -> None:
    values = np.random.default_rng(5).standard_normal(100_000).astype(np.float32)
    values[:4] = [1 + 2**-8, 1 + 3 * 2**-8, -0.0, 3e38]
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected)
