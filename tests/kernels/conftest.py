"""The graph of the ops on the image cache, which two files share."""

from __future__ import annotations

import pytest
from max.graph import DeviceRef

from mllama.kernels.dispatch import uses_custom_ops
from tests.kernels.image_attention import ImageOps
from tests.kernels.simd_widths import KERNELS, use_kernels


@pytest.fixture(scope="package", params=KERNELS)
def ops(request: pytest.FixtureRequest) -> ImageOps:
    """The ops on the image cache, compiled for each SIMD width."""
    if not uses_custom_ops(DeviceRef.CPU()):
        pytest.skip("this CPU doesn't support the custom ops")
    with use_kernels(request.param):
        return ImageOps()
