"""An adapter goes to the loader with floats, and into the file that is quantized."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from mllama.cli.main import group
from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.launch.options import EngineOptions
from mllama.launch.resolve import resolve_model_files
from mllama.max_model.settings import ModelSettings
from mllama.weights.gguf.checkpoint import open_gguf, read_tensors
from tests.reference.adapters import Merged, edit_config, write_adapter
from tests.reference.checkpoints import checkpoint


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """An adapter of the text side and of the vision side."""
    return write_adapter(
        tmp_path_factory.mktemp("adapter"),
        checkpoint(),
        r=4,
        target_modules=["q_proj", "fc1", "lm_head"],
    )


def find(**asked: Any) -> Any:
    files = resolve_model_files(str(checkpoint()), device_type="cpu", **asked)
    return files.ensure_quantized(quiet=True)


def floats_of(path: Path) -> dict[str, np.ndarray]:
    found = {}
    config = MllamaConfig.from_path(checkpoint())
    for name, matrix in read_tensors(open_gguf(path), config):
        values = matrix.values
        if matrix.format is not None:
            values = dequantize(values, GGMLQuantizationType[matrix.format])
        found[name] = values
    return found


def check_quantized(path: Path, made: Merged) -> None:
    """The file holds the merged weights; nothing else is as far off as a format is."""
    found = floats_of(path)
    for name, wanted in made.weights.items():
        error = np.sqrt(((found[name] - wanted) ** 2).mean() / (wanted**2).mean())
        assert error < 0.12, (name, error)


def test_floats_are_merged_as_they_are_loaded(made: Merged) -> None:
    files = find(lora_path=str(made.folder))
    weights = checkpoint() / "model.safetensors"
    assert (files.weight_path, files.encoding.name) == ((weights,), "float32")
    assert files.lora_path == made.folder
    beside = find(lora_path=made.folder, weight_path=[weights])
    assert (beside.weight_path, beside.lora_path) == ((weights,), made.folder)
    options = EngineOptions(
        model_path=checkpoint(), lora_path=made.folder, devices="cpu"
    )
    settings = ModelSettings.from_max(options.pipeline_args(options.resolve()))
    assert settings == ModelSettings(lora_path=made.folder, compiled=settings.compiled)


def test_blocks_are_made_of_the_merged_weights(made: Merged, tmp_path: Path) -> None:
    plain = find(encoding="q4_k")
    files = find(encoding="q4_k", lora_path=made.folder)
    assert files.lora_path is None
    assert files.weight_path != plain.weight_path
    check_quantized(files.weight_path[0], made)
    with pytest.raises(AssertionError, match=r"lm_head|q_proj|fc1"):
        check_quantized(plain.weight_path[0], made)
    written = files.weight_path[0].stat().st_mtime_ns
    again = find(encoding="q4_k", lora_path=made.folder)
    assert again == files
    assert files.weight_path[0].stat().st_mtime_ns == written
    # Another adapter under the same path is another file.
    other = Path(shutil.copytree(made.folder, tmp_path / "other"))
    first = find(encoding="q4_k", lora_path=other)
    edit_config(other, lora_alpha=100)
    second = find(encoding="q4_k", lora_path=other)
    assert len({f.weight_path for f in (files, first, second)}) == 3


def test_quantize_takes_an_adapter(made: Merged, tmp_path: Path) -> None:
    target = tmp_path / "merged.gguf"
    group.main(
        ["quantize", str(checkpoint()), str(target), "--lora-path", str(made.folder)],
        standalone_mode=False,
    )
    check_quantized(target, made)


def test_quantize_leaves_nothing_of_an_adapter_that_does_not_fit(
    made: Merged, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made.folder, tmp_path / "adapter"))
    edit_config(folder, r=5)
    with pytest.raises(MllamaError, match="has the rank 4"):
        group.main(
            [
                "quantize",
                str(checkpoint()),
                str(tmp_path / "x.gguf"),
                "--lora-path",
                str(folder),
            ],
            standalone_mode=False,
        )
    assert not list(tmp_path.glob("x.gguf*"))


def test_quantized_weights_take_no_adapter(made: Merged) -> None:
    (gguf,) = find(encoding="q4_k").weight_path
    way_out = "`mllama quantize SRC DST --lora-path"
    with pytest.raises(MllamaError, match=way_out):
        find(weight_path=[gguf], lora_path=made.folder)
    with pytest.raises(MllamaError, match=way_out):
        resolve_model_files(str(gguf), device_type="cpu", lora_path=made.folder)


@pytest.mark.parametrize("encoding", [None, "q4_k"])
def test_an_adapter_is_checked_before_anything_is_loaded(
    made: Merged, tmp_path: Path, encoding: str | None
) -> None:
    folder = Path(shutil.copytree(made.folder, tmp_path / "adapter"))
    edit_config(folder, peft_type="IA3")
    options = EngineOptions(
        model_path=checkpoint(),
        lora_path=folder,
        quantization_encoding=encoding,
        devices="cpu",
    )
    with pytest.raises(MllamaError, match="of the type 'IA3'"):
        options.resolve()
