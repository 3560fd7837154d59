"""Copies of host arrays on devices, kept until the devices have used them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from max.driver import Buffer, Device


class Uploads:
    """Copies arrays to devices and keeps both ends alive.

    MAX copies to a GPU and runs graphs there asynchronously.  Whether it keeps what
    they read is not documented, so Python keeps the arrays and their copies until the
    devices have finished.  On the host nothing is copied, and runs are synchronous.

    Args:
        devices: The devices of the model.
        is_overlapped: Whether a step starts before the tokens of the last one have been
            read, so that the last one's arrays may still be in use.
    """

    def __init__(
        self, devices: Sequence[Device], *, is_overlapped: bool = False
    ) -> None:
        self._devices = [device for device in devices if not device.is_host]
        self._kept: list[Any] = []
        self._kept_before: list[Any] = []
        self._is_overlapped = is_overlapped

    def copy(self, array: np.ndarray, device: Device) -> Buffer:
        """Returns an array's copy on a device, or on the host the array itself."""
        host = Buffer.from_numpy(np.ascontiguousarray(array))
        buffer = host.to(device)
        self.keep(array, host, buffer)
        return buffer

    def keep(self, *used: Any) -> None:
        """Keeps objects that devices may be using until :meth:`release`."""
        if self._devices:
            self._kept += used

    def begin_step(self) -> None:
        """Drops what no device uses any more when a step begins.

        Of overlapped steps, the last one's arrays are kept.  Those of the step before
        have been used: its tokens were read after the last step began.
        """
        if self._is_overlapped:
            self._kept_before, self._kept = self._kept, []
        else:
            self.release()

    def release(self) -> None:
        """Waits for the devices, then drops what was kept.

        Between two steps this takes no time unless they overlap: the devices have
        finished when the step's tokens have been read.
        """
        if not (self._kept or self._kept_before):
            return
        for device in self._devices:
            device.synchronize()
        self._kept.clear()
        self._kept_before.clear()
