"""Memory of zeros that is not there before it is used."""

from __future__ import annotations

import numpy as np
import psutil
from max.driver import CPU, Buffer
from max.dtype import DType

from mllama.max_compat.lazy_buffer import LazilyCommittedBuffer

MIB = 1 << 20


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def test_it_comes_as_it_is_used() -> None:
    before = resident()
    buffer = LazilyCommittedBuffer.zeros((1024, MIB), DType.uint8, CPU())
    array = buffer.to_numpy()
    assert resident() - before < 64 * MIB
    assert not array[::100, ::4096].any()
    array[:64] = 1
    assert resident() - before > 60 * MIB
    assert Buffer.to_numpy(buffer)[63, -1] == 1
    assert not array[64].any()


def test_shape_and_type() -> None:
    buffer = LazilyCommittedBuffer.zeros((3, 5, 7), DType.bfloat16, CPU())
    assert tuple(buffer.shape) == (3, 5, 7)
    assert buffer.dtype == DType.bfloat16
    assert buffer._data_ptr() % 64 == 0
    assert not buffer.view(DType.uint16, (105,)).to_numpy().any()
    assert np.shape(
        LazilyCommittedBuffer.zeros((2, 0), DType.float32, CPU()).to_numpy()
    ) == (2, 0)
