"""An adapter is merged while floats are loaded, or before they are quantized."""

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
from mllama.hub.options import DownloadedModel
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
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """An adapter of layers of both sides."""
    return write_adapter(
        tmp_path_factory.mktemp("adapter"),
        checkpoint(),
        r=4,
        target_modules=["q_proj", "fc1", "lm_head"],
    )


def resolve(**options: Any) -> Any:
    files = resolve_model_files(str(checkpoint()), device_type="cpu", **options)
    return files.ensure_quantized(quiet=True)


def floats_of(path: Path) -> dict[str, np.ndarray]:
    read = {}
    config = MllamaConfig.from_path(checkpoint())
    for name, matrix in read_tensors(open_gguf(path), config):
        values = matrix.values
        if matrix.format is not None:
            values = dequantize(values, GGMLQuantizationType[matrix.format])
        read[name] = values
    return read


def check_quantized(path: Path, adapter: Merged) -> None:
    """Checks that the file holds the merged weights, up to the error of its format."""
    read = floats_of(path)
    for name, wanted in adapter.weights.items():
        error = np.sqrt(((read[name] - wanted) ** 2).mean() / (wanted**2).mean())
        assert error < 0.12, (name, error)


def test_floats_are_merged_while_they_are_loaded(adapter: Merged) -> None:
    files = resolve(lora_path=str(adapter.folder))
    weights = checkpoint() / "model.safetensors"
    assert (files.weight_path, files.encoding.name) == ((weights,), "float32")
    assert files.lora_path == adapter.folder
    beside = resolve(lora_path=adapter.folder, weight_path=[weights])
    assert (beside.weight_path, beside.lora_path) == ((weights,), adapter.folder)
    options = EngineOptions(
        model_path=checkpoint(), lora_path=adapter.folder, devices="cpu"
    )
    settings = ModelSettings.from_max(options.pipeline_args(options.resolve()))
    assert settings == ModelSettings(
        lora_path=adapter.folder, compiled=settings.compiled
    )


def test_an_adapter_that_is_not_used_is_announced(
    adapter: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve().notes == ()
    beside = Path(shutil.copytree(checkpoint(), tmp_path / "model"))
    for file in adapter.folder.iterdir():
        shutil.copy(file, beside)
    files = resolve_model_files(str(beside), device_type="cpu")
    (note,) = files.notes
    assert note.startswith(f"{beside} also has a LoRA adapter")
    assert files.lines()[1:] == [note]

    downloaded = DownloadedModel(str(checkpoint()), (), ("a note",))
    monkeypatch.setattr(
        "mllama.launch.resolve.download_model", lambda *_, **__: downloaded
    )
    assert resolve().notes == ("a note",)
    assert resolve(lora_path=adapter.folder).notes == ()


def test_merged_weights_are_quantized(adapter: Merged, tmp_path: Path) -> None:
    plain = resolve(encoding="q4_k")
    files = resolve(encoding="q4_k", lora_path=adapter.folder)
    assert files.lora_path is None
    assert files.weight_path != plain.weight_path
    check_quantized(files.weight_path[0], adapter)
    with pytest.raises(AssertionError, match=r"lm_head|q_proj|fc1"):
        check_quantized(plain.weight_path[0], adapter)
    written = files.weight_path[0].stat().st_mtime_ns
    again = resolve(encoding="q4_k", lora_path=adapter.folder)
    assert again == files
    assert files.weight_path[0].stat().st_mtime_ns == written
    # A changed adapter under the same path gives another file.
    other = Path(shutil.copytree(adapter.folder, tmp_path / "other"))
    first = resolve(encoding="q4_k", lora_path=other)
    edit_config(other, lora_alpha=100)
    second = resolve(encoding="q4_k", lora_path=other)
    assert len({f.weight_path for f in (files, first, second)}) == 3


def test_quantize_merges_an_adapter(adapter: Merged, tmp_path: Path) -> None:
    target = tmp_path / "merged.gguf"
    group.main(
        [
            "quantize",
            str(checkpoint()),
            str(target),
            "--lora-path",
            str(adapter.folder),
        ],
        standalone_mode=False,
    )
    check_quantized(target, adapter)


def test_quantize_leaves_no_file_if_the_adapter_does_not_fit(
    adapter: Merged, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter.folder, tmp_path / "adapter"))
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


def test_an_adapter_on_quantized_weights_is_refused(adapter: Merged) -> None:
    (gguf,) = resolve(encoding="q4_k").weight_path
    remedy = "`mllama quantize SRC DST --lora-path"
    with pytest.raises(MllamaError, match=remedy):
        resolve(weight_path=[gguf], lora_path=adapter.folder)
    with pytest.raises(MllamaError, match=remedy):
        resolve_model_files(str(gguf), device_type="cpu", lora_path=adapter.folder)


@pytest.mark.parametrize("encoding", [None, "q4_k"])
def test_an_adapter_is_checked_before_anything_is_loaded(
    adapter: Merged, tmp_path: Path, encoding: str | None
) -> None:
    folder = Path(shutil.copytree(adapter.folder, tmp_path / "adapter"))
    edit_config(folder, peft_type="IA3")
    options = EngineOptions(
        model_path=checkpoint(),
        lora_path=folder,
        quantization_encoding=encoding,
        devices="cpu",
    )
    with pytest.raises(MllamaError, match="of the type 'IA3'"):
        options.resolve()
