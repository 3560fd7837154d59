"""A file is written whole or not at all."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mllama.errors import CheckpointError, MllamaError
from mllama.utils.atomic_file import atomic_file
from mllama.weights.checkpoint import Checkpoint
from mllama.weights.gguf import tensor_encoding
from mllama.weights.gguf.writing import write_gguf
from tests.weights.gguf.processes import run


def silent(*_: object) -> None:
    """Shows no progress."""


def command(source: Checkpoint, target: Path, *, before: str) -> str:
    """Returns a program that runs ``mllama quantize`` after some other code."""
    arguments = ["mllama", "quantize", str(source.path), str(target)]
    return f"""
import os, resource, signal, sys, time
import numpy as np
from mllama.kernels.ops.gguf_quantize import compile_quantizer
from mllama.utils.telemetry import disable_telemetry
disable_telemetry()
compile_quantizer(np.float32)  # What MAX compiles, it also writes.
from mllama.weights.gguf import tensor_encoding
quantize = tensor_encoding.quantize
{textwrap.dedent(before)}
sys.argv = {arguments!r}
from mllama.cli.main import main
main()
"""


SLOW = """
def slow(*given):
    time.sleep(0.3)
    return quantize(*given)
tensor_encoding.quantize = slow
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A target in a directory of its own, with an older file."""
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    target.write_bytes(b"older")
    return target


def untouched(target: Path) -> bool:
    return target.read_bytes() == b"older"


def names(target: Path) -> set[str]:
    return {file.name for file in target.parent.iterdir()}


def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing(
    source: Checkpoint, target: Path
) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    done = run(command(source, target, before=limit))
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == f"error: {target} can't be written: File too large"
    assert untouched(target)
    assert names(target) == {"model.gguf"}


def test_a_kill_keeps_the_older_file_and_the_next_attempt_succeeds(
    source: Checkpoint, target: Path
) -> None:
    kill = """
    def killed(weights, kind, name):
        if name == "lm_head.weight":
            os.kill(os.getpid(), signal.SIGKILL)
        return quantize(weights, kind, name)
    tensor_encoding.quantize = killed
    """
    done = run(command(source, target, before=kill))
    assert done.returncode == -signal.SIGKILL
    assert untouched(target)
    assert names(target) == {"model.gguf", "model.gguf.part"}
    write_gguf(source, target, "q4_k", silent)
    assert target.read_bytes()[:4] == b"GGUF"
    assert names(target) == {"model.gguf"}


def interrupted(program: str, target: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program and sends it SIGINT once it writes."""
    child = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True
    )
    part = target.with_name("model.gguf.part")
    deadline = time.monotonic() + 120
    while not part.exists() or part.stat().st_size < 1000:
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=600)
    return subprocess.CompletedProcess(program, child.returncode, "", errors)


def test_ctrl_c_ends_quickly_and_leaves_nothing(
    source: Checkpoint, target: Path
) -> None:
    done = interrupted(command(source, target, before=SLOW), target)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert untouched(target)
    assert names(target) == {"model.gguf"}


def test_ctrl_c_in_a_program_that_quantizes_in_a_thread_leaves_nothing(
    source: Checkpoint, target: Path
) -> None:
    """As the Python API does while it loads a model."""
    thread = f"""
import threading
from pathlib import Path
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf.writing import write_gguf
worker = threading.Thread(daemon=True, target=write_gguf, args=(
    open_checkpoint(Path({str(source.path)!r})), Path({str(target)!r}), "q4_k", print))
worker.start()
worker.join()
"""
    done = interrupted(command(source, target, before=SLOW + thread), target)
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
    assert untouched(target)
    assert names(target) == {"model.gguf"}


def test_a_second_writer_of_the_same_file_is_refused(
    source: Checkpoint, target: Path
) -> None:
    with atomic_file(target) as part:
        part.write_bytes(b"first")
        with pytest.raises(MllamaError, match="being written by another process"):
            write_gguf(source, target, "q4_k", silent)
        assert part.read_bytes() == b"first"
    assert target.read_bytes() == b"first"
    assert names(target) == {"model.gguf"}
    write_gguf(source, target, "q4_k", silent)


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failure_keeps_the_older_file(
    source: Checkpoint,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
) -> None:
    def fails(*_: object) -> None:
        raise failure

    monkeypatch.setattr(tensor_encoding, "quantize", fails)
    expected = CheckpointError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_gguf(source, target, "q4_k", silent)
    assert untouched(target)
    assert names(target) == {"model.gguf"}


def test_a_disk_without_enough_space_is_refused_before_writing(
    source: Checkpoint, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(target.parent))(10, 9, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match="only 1 bytes are free there; free some"):
        write_gguf(source, target, "q4_k", silent)
    assert untouched(target)


def unwritable(target: Path) -> Path:
    """Puts a directory where the partial file would be."""
    target.with_name("model.gguf.part").mkdir()
    return target


def nowhere(target: Path) -> Path:
    return target.parent / "missing" / "model.gguf"


@pytest.mark.parametrize("place", [unwritable, nowhere])
def test_an_unwritable_target_is_named(
    source: Checkpoint, target: Path, place: Callable[[Path], Path]
) -> None:
    with pytest.raises(CheckpointError, match="can't be written"):
        write_gguf(source, place(target), "q4_k", silent)
    assert untouched(target)
