"""What a device reads lives until the device has finished."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
from max.driver import CPU

from mllama.image_cache.uploads import Uploads


class Device:
    """A device that counts how often it was waited for."""

    is_host = False
    waits = 0

    def synchronize(self) -> None:
        self.waits += 1


def test_arrays_and_outputs_live_until_the_device_has_finished() -> None:
    device: Any = Device()
    uploads = Uploads([device])
    array, output = np.arange(5), Device()
    seen = weakref.ref(array), weakref.ref(output)
    buffer = uploads.copy(array, CPU())
    np.testing.assert_array_equal(buffer.to_numpy(), array)
    uploads.keep(output)
    del array, output, buffer
    gc.collect()
    assert all(reference() is not None for reference in seen)
    assert device.waits == 0
    uploads.release()
    gc.collect()
    assert device.waits == 1
    assert all(reference() is None for reference in seen)
    uploads.release()
    assert device.waits == 1


def test_the_host_keeps_nothing() -> None:
    uploads = Uploads([CPU()])
    output = Device()
    uploads.keep(output)
    seen = weakref.ref(output)
    del output
    assert seen() is None
