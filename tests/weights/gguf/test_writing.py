"""Tensors are quantized part by part, and only finite numbers are written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mllama.errors import CheckpointError
from mllama.kernels.ops.gguf_quantize import FORMATS
from mllama.weights.checkpoint import Checkpoint, open_checkpoint
from mllama.weights.gguf import tensor_encoding
from mllama.weights.gguf.names import StoredTensor
from mllama.weights.gguf.tensor_encoding import PlannedTensor, encode_in_parts
from mllama.weights.gguf.writing import write_gguf
from mllama.weights.tensor_info import TensorInfo
from tests.reference.checkpoints import checkpoint
from tests.weights.gguf.processes import run

Array = np.ndarray


def silent(*_: object) -> None:
    """Shows no progress."""


@pytest.fixture(scope="module")
def half() -> Checkpoint:
    """The same checkpoint in bfloat16."""
    return open_checkpoint(checkpoint(dtype="bfloat16", names="new"))


@pytest.mark.parametrize("encoding", ["q4_0", "q4_k", "q6_k"])
def test_the_file_does_not_depend_on_the_size_of_parts(
    half: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Each part permutes the rows of its own heads."""
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    write_gguf(half, whole, encoding, silent)
    monkeypatch.setattr(tensor_encoding, "_WEIGHTS_AT_ONCE", 5000)
    write_gguf(half, cut, encoding, silent)
    assert whole.read_bytes() == cut.read_bytes()


def test_bfloat16_reaches_the_kernel_memory_mapped(
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


def test_progress_is_reported_within_a_large_tensor(
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
        from mllama.weights.tensor_info import TensorInfo
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
    """Returns a copy of a checkpoint with another value in one tensor."""
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
def test_values_that_are_not_finite_are_refused(
    source: Checkpoint, tmp_path: Path, name: str, value: float
) -> None:
    damaged = broken(source, tmp_path / "source", name, value)
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    with pytest.raises(CheckpointError, match=f"{name} contains NaN or infinity"):
        write_gguf(damaged, target, "q4_k", silent)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("name", "kind"), [(TEXT, "q4_0"), (VISION, "f16"), ("lm_head.weight", "q6_k")]
)
def test_values_that_overflow_the_format_are_refused(
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
