"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Returns a free port of 127.0.0.1.

    A server takes it seconds later, so it is below those that outgoing connections
    get.  Processes of tests may share a seed, so it comes from the system.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
