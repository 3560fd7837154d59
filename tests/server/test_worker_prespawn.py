"""The worker's process, when none was started ahead."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import pytest

from mllama.server.worker_prespawn import PrespawnedPopen


class Worker(SpawnProcess):
    """A process that is launched as MAX's worker is."""

    _Popen = staticmethod(PrespawnedPopen)  # type: ignore[assignment]


def send_python_settings(pipe: Connection) -> None:
    pipe.send({name for name in os.environ if name.startswith("PYTHON")})


def test_a_worker_does_not_inherit_the_python_settings_of_max(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONEXECUTABLE", raising=False)
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    # As MAX does: where os.environ doesn't show it.
    os.putenv("PYTHONEXECUTABLE", "/nowhere/python")
    try:
        worker = Worker(target=send_python_settings, args=(sender,))
        worker.start()
    finally:
        os.unsetenv("PYTHONEXECUTABLE")
    assert receiver.poll(60)
    assert "PYTHONEXECUTABLE" not in receiver.recv()
    worker.join()
