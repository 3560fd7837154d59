"""No class of requests leaves memory in a server whose caches are full."""

from __future__ import annotations

import pytest

from tests.server.conftest import Server

from .memory_by_class import MemoryByClass, grown, pictures_served
from .running_server import RunningServer

pytestmark = [pytest.mark.compiles, pytest.mark.long, pytest.mark.timeout(1800)]


def test_memory_is_back_after_each_class_of_requests(server: Server) -> None:
    pytest.importorskip("python_multipart")
    pytest.importorskip("pillow_heif")
    running = RunningServer(server.port, server.process.pid, server.log)
    with pictures_served() as site:
        measuring = MemoryByClass(running, server.process.pid, site)
        for measured in measuring.run():
            assert not measured.problems, measured.name
            assert not grown(measuring.before, measured.sizes), measured.name
    assert running.lasting_problems() == []
