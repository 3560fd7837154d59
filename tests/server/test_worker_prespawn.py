"""The worker's process: its start waits for nothing, and leaves nothing if it fails."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mllama.server import worker_prespawn
from mllama.server.worker_prespawn import PrespawnedProcess, prespawn_worker

from .standby import ReadsLate, stand_by

MORE_THAN_A_PIPE_HOLDS = bytes(1 << 20)


def send_python_settings(pipe: Connection) -> None:
    pipe.send({name for name in os.environ if name.startswith("PYTHON")})


def note_size(content: bytes, file: Path) -> None:
    file.write_text(str(len(content)))


def test_a_worker_does_not_inherit_the_python_settings_of_max(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONEXECUTABLE", raising=False)
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    # As MAX does: where os.environ doesn't show it.
    os.putenv("PYTHONEXECUTABLE", "/nowhere/python")
    try:
        worker = PrespawnedProcess(target=send_python_settings, args=(sender,))
        worker.pickle_task()
        worker.start()
        worker.task_writer()()
    finally:
        os.unsetenv("PYTHONEXECUTABLE")
    assert receiver.poll(60)
    assert "PYTHONEXECUTABLE" not in receiver.recv()
    worker.join()


def test_the_start_waits_for_no_process_that_reads_its_task_late(
    tmp_path: Path,
) -> None:
    flag, result = tmp_path / "flag", tmp_path / "result"
    stand_by(ReadsLate(flag))
    worker = PrespawnedProcess(target=note_size, args=(MORE_THAN_A_PIPE_HOLDS, result))
    worker.pickle_task()
    worker.start()
    writing = threading.Thread(target=worker.task_writer())
    writing.start()
    # Nobody has told it to read.
    assert writing.is_alive()
    assert worker.exitcode is None
    flag.touch()
    writing.join(60)
    worker.join(60)
    assert worker.exitcode == 0
    assert result.read_text() == str(len(MORE_THAN_A_PIPE_HOLDS))


def test_a_writer_ends_with_a_process_that_never_reads(tmp_path: Path) -> None:
    os.kill(stand_by(ReadsLate(tmp_path / "never")), signal.SIGSTOP)
    before = pipes()
    standing_by = worker_prespawn._prespawned
    assert standing_by is not None
    used = {
        each for each in before if each[0] in (standing_by.task, standing_by.sentinel)
    }
    assert len(used) == 2
    worker = PrespawnedProcess(
        target=note_size, args=(MORE_THAN_A_PIPE_HOLDS, tmp_path / "result")
    )
    worker.pickle_task()
    worker.start()
    writing = threading.Thread(target=worker.task_writer())
    writing.start()
    worker.kill()
    writing.join(60)
    assert not writing.is_alive()
    worker.join()
    worker.close()
    after = pipes()
    assert after <= before
    assert not after & used


def fail_to_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError("no more processes")

    monkeypatch.setattr(util, "spawnv_passfds", fail)


def fail_at_second_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, opened = os.pipe, iter([True, False])

    def fail() -> tuple[int, int]:
        if not next(opened):
            raise OSError("no more descriptors")
        return pipe()

    monkeypatch.setattr(os, "pipe", fail)


@pytest.mark.parametrize("fault", [fail_to_fork, fail_at_second_pipe])
def test_a_process_that_cannot_be_started_leaves_no_descriptors(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    # Python's own process for resources, which stays.
    resource_tracker.ensure_running()
    before = pipes()
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(OSError, match="no more"):
            prespawn_worker()
    assert pipes() <= before


def pipes() -> set[tuple[int, str]]:
    """Returns this process's open pipes.

    Other tests in it may have left descriptors, which are closed some time later.
    """
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        # The listing's own is closed by now.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("pipe:"):
                found.add((int(descriptor), target))
    return found
