"""A file is written part by part, whole or not at all, and holds numbers only."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mllama.errors import CheckpointError, MllamaError
from mllama.kernels.ops.gguf_quantize import FORMATS
from mllama.utils.atomic_file import atomic_file
from mllama.weights.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from mllama.weights.gguf import tensor_encoding
from mllama.weights.gguf.names import StoredTensor
from mllama.weights.gguf.tensor_encoding import PlannedTensor, encode_in_parts
from mllama.weights.gguf.writing import write_gguf
from tests.reference.checkpoints import checkpoint

Array = np.ndarray


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return open_checkpoint(checkpoint())


@pytest.fixture(scope="module")
def half() -> Checkpoint:
    """The same in bfloat16."""
    return open_checkpoint(checkpoint(dtype="bfloat16", names="new"))


def silent(*_: object) -> None:
    """Shows no progress."""


@pytest.mark.parametrize("encoding", ["q4_0", "q4_k", "q6_k"])
def test_how_tensors_are_cut_changes_nothing(
    half: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Rows that change places in their head do so in every part."""
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    write_gguf(half, whole, encoding, silent)
    monkeypatch.setattr(tensor_encoding, "_WEIGHTS_AT_ONCE", 5000)
    write_gguf(half, cut, encoding, silent)
    assert whole.read_bytes() == cut.read_bytes()


def test_bfloat16_reaches_the_kernel_as_it_lies_in_the_file(
    half: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Array] = []
    quantize = tensor_encoding.quantize

    def spy(weights: Array, *rest: Any) -> Array:
        seen.append(weights)
        return quantize(weights, *rest)

    monkeypatch.setattr(tensor_encoding, "quantize", spy)
    write_gguf(half, tmp_path / "model.gguf", "q4_k", silent)
    assert seen
    assert all(part.dtype == np.uint16 for part in seen)
    assert all(isinstance(part, np.memmap) for part in seen)


def test_progress_is_told_within_a_large_tensor(
    half: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_encoding, "_WEIGHTS_AT_ONCE", 1 << 12)
    told: list[tuple[str, int, int]] = []
    write_gguf(half, tmp_path / "m.gguf", "q4_k", lambda *step: told.append(step))
    assert told[0][:2] == ("compiling the quantizer", 0)
    assert [step[1] for step in told] == sorted(step[1] for step in told)
    assert told[-1] == ("m.gguf", told[0][2], told[0][2])
    head = {done for name, done, _ in told if name == "lm_head.weight"}
    assert len(head) > 4


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    """A matrix of 256 MiB takes a few parts' memory, mapped pages counted."""
    file = tmp_path / "large"
    with file.open("wb") as large:
        large.truncate(256 << 20)
    child = run(
        f"""
        from pathlib import Path
        import numpy as np
        from gguf import GGMLQuantizationType as Kind
        from mllama.kernels.ops.gguf_quantize import compile_quantizer
        from mllama.weights.checkpoint import TensorInfo
        from mllama.weights.gguf.names import StoredTensor
        from mllama.weights.gguf.tensor_encoding import PlannedTensor, encode_in_parts

        def memory(key):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(key):
                    return int(line.split()[1])

        shape = (1 << 15, 4096)
        info = TensorInfo(Path({str(file)!r}), "w", "bfloat16", shape, 0, 256 << 20)
        compile_quantizer(np.uint16)
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        before = memory("VmRSS")
        for kind in (Kind.Q4_K, Kind.F16):
            plan = PlannedTensor("w", StoredTensor("w"), kind, shape)
            written = sum(part.nbytes for part in encode_in_parts(plan, info))
            assert written == plan.nbytes
        print((memory("VmHWM") - before) // 1024)
        """
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout.split()[-1]) < 96, child.stdout


def broken(
    base: Checkpoint, folder: Path, name: str, value: float, dtype: type = np.float32
) -> Checkpoint:
    """A copy of a checkpoint with one odd value in one tensor."""
    shutil.copytree(base.path, folder, dirs_exist_ok=True)
    tensors = {n: np.array(t.floats()) for n, t in base.tensors.items()}
    tensors[name].flat[-1] = value
    save_file(
        {
            n if n.startswith("lm_head") else f"model.{n}": t.astype(dtype)
            for n, t in tensors.items()
        },
        folder / "model.safetensors",
    )
    return open_checkpoint(folder)


TEXT = "language_model.layers.0.self_attn.q_proj.weight"
VISION = "vision_model.transformer.layers.0.mlp.fc1.weight"
NORM = "language_model.norm.weight"


@pytest.mark.parametrize("name", [TEXT, VISION, NORM])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_no_file_holds_what_is_no_number(
    source: Checkpoint, tmp_path: Path, name: str, value: float
) -> None:
    damaged = broken(source, tmp_path / "source", name, value)
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinity"):
        write_gguf(damaged, target, "q4_k", silent)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("name", "kind"), [(TEXT, "q4_0"), (VISION, "f16"), ("lm_head.weight", "q6_k")]
)
def test_no_file_holds_values_that_became_infinite(
    source: Checkpoint, tmp_path: Path, name: str, kind: str
) -> None:
    damaged = broken(source, tmp_path / "source", name, 3e8)
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    with pytest.raises(CheckpointError, match=f"{name} .* too large for {kind}"):
        write_gguf(damaged, target, "q4_0", silent)
    assert not list(target.parent.iterdir())


def test_float16_checkpoints_are_quantized(source: Checkpoint, tmp_path: Path) -> None:
    halves = broken(source, tmp_path / "source", NORM, 1.0, np.float16)
    assert halves.dtype == "float16"
    write_gguf(halves, tmp_path / "model.gguf", "q4_k", silent)


@pytest.mark.parametrize("kind", [None, *FORMATS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_of_a_tensor_are_its_rows(
    tmp_path: Path, dtype: str, kind: object
) -> None:
    values = np.arange(7 * 256, dtype=np.float32).reshape(7, 256)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    file = tmp_path / "w"
    file.write_bytes(b"abc" + (values if dtype == "float32" else stored).tobytes())
    nbytes = file.stat().st_size - 3
    info = TensorInfo(file, "w", dtype, values.shape, 3, nbytes)
    parts = list(info.parts(3))
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts), info.mapped())
    if kind in FORMATS:
        plan = PlannedTensor("w", StoredTensor("w"), kind, values.shape)
        assert sum(part.nbytes for part in encode_in_parts(plan, info)) == plan.nbytes


# --- Whole or not at all.


def run(program: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=240,
        **options,
    )


def command(source: Checkpoint, target: Path, *, before: str) -> str:
    """A program that is ``mllama quantize``, with something done before."""
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
    """A name in a directory of its own, where an older file lies."""
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    target.write_bytes(b"older")
    return target


def untouched(target: Path) -> bool:
    return target.read_bytes() == b"older"


def names(target: Path) -> set[str]:
    return {file.name for file in target.parent.iterdir()}


def test_a_full_disk_is_one_line_and_leaves_nothing(
    source: Checkpoint, target: Path
) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    done = run(command(source, target, before=limit))
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == f"error: {target} can't be written: File too large"
    assert untouched(target)
    assert names(target) == {"model.gguf"}


def test_a_kill_leaves_the_name_alone_and_the_next_attempt_succeeds(
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
    _, errors = child.communicate(timeout=60)
    return subprocess.CompletedProcess(program, child.returncode, "", errors)


def test_ctrl_c_ends_at_once_and_leaves_nothing(
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


def test_two_that_write_one_file_do_not_mix(source: Checkpoint, target: Path) -> None:
    with atomic_file(target) as part:
        part.write_bytes(b"first")
        with pytest.raises(MllamaError, match="being written by another process"):
            write_gguf(source, target, "q4_k", silent)
        assert part.read_bytes() == b"first"
    assert target.read_bytes() == b"first"
    assert names(target) == {"model.gguf"}
    write_gguf(source, target, "q4_k", silent)


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failure_leaves_the_older_file(
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


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    source: Checkpoint, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(target.parent))(10, 9, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match="are free there"):
        write_gguf(source, target, "q4_k", silent)
    assert untouched(target)


def unwritable(target: Path) -> Path:
    """A directory takes the place of the part."""
    target.with_name("model.gguf.part").mkdir()
    return target


def nowhere(target: Path) -> Path:
    return target.parent / "missing" / "model.gguf"


@pytest.mark.parametrize("place", [unwritable, nowhere])
def test_a_place_that_can_not_be_written_to_is_named(
    source: Checkpoint, target: Path, place: Callable[[Path], Path]
) -> None:
    with pytest.raises(CheckpointError, match="can't be written"):
        write_gguf(source, place(target), "q4_k", silent)
    assert untouched(target)
