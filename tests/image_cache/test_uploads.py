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


def test_overlapped_steps_keep_the_arrays_of_the_last_step_without_waiting() -> None:
    device: Any = Device()
    uploads = Uploads([device], is_overlapped=True)
    steps = []
    for _ in range(4):
        uploads.begin_step()
        used = Device()
        uploads.keep(used)
        steps.append(weakref.ref(used))
        del used
        gc.collect()
    assert [reference() is not None for reference in steps] == [
        False,
        False,
        True,
        True,
    ]
    assert device.waits == 0
    uploads.release()
    assert not any(reference() for reference in steps)
    assert device.waits == 1


def test_a_step_that_does_not_overlap_waits_for_the_last() -> None:
    device: Any = Device()
    uploads = Uploads([device])
    uploads.keep(Device())
    uploads.begin_step()
    uploads.begin_step()
    assert device.waits == 1


def test_the_host_keeps_nothing() -> None:
    uploads = Uploads([CPU()])
    output = Device()
    uploads.keep(output)
    seen = weakref.ref(output)
    del output
    assert seen() is None
