"""What a user names becomes files to load, or a refusal that says what to do."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from max.pipelines import supported_encoding_supported_devices

from mllama.demo_model import MODEL_PATH
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.kernels import dispatch
from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import resolve_model_files
from mllama.max_model.settings import ModelSettings
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.encodings import RUNNABLE, Encoding
from mllama.weights.names import expected_tensors
from mllama.weights.quantization_plan import int8_vision_formats
from tests.reference.checkpoints import checkpoint, tiny_config, write_checkpoint

DEMO = str(MODEL_PATH)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def find(model: str = DEMO, **asked: Any) -> ModelFiles:
    files = resolve_model_files(model, **{"device_type": "cpu", **asked})
    return files.ensure_quantized(quiet=True)


@pytest.fixture
def gguf() -> Path:
    """The demo model in q4_k."""
    return find(encoding="q4_k").weight_path[0]


def test_a_checkpoint_of_float32_stays_so_on_a_cpu() -> None:
    files = find()
    weights = (MODEL_PATH / "model.safetensors",)
    assert (files.model, files.weight_path) == (MODEL_PATH, weights)
    assert (files.encoding.name, files.encoding.max_name) == ("float32", "float32")
    assert files.settings == ModelSettings()
    # Norms, biases and all: four bytes each.
    assert files.weights_bytes == open_checkpoint(MODEL_PATH).nbytes


def test_the_vision_side_in_bytes_takes_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    floats, files = find(), find(vision_encoding="int8")
    config = floats.config
    matrices = sum(
        math.prod(expected_tensors(config)[name])
        for name in int8_vision_formats(config)
    )
    assert floats.weights_bytes - files.weights_bytes == 3 * matrices > 1e6
    assert ", vision in int8: " in files.summary()
    assert files.settings == ModelSettings(int8_vision=True)
    quantized = find(encoding="q4_k", vision_encoding="int8")
    assert quantized.encoding.full_name == "q4_k, vision in int8"


@pytest.mark.parametrize(
    ("asked", "features", "message"),
    [
        ({"device_type": "gpu"}, dispatch.AVX2_FEATURES, "runs on a CPU only"),
        ({"encoding": "bfloat16"}, dispatch.AVX2_FEATURES, "not with bfloat16"),
        ({}, ("aarch64",), "which don't run here"),
        ({"vision_encoding": "q8_0"}, dispatch.AVX2_FEATURES, "in int8, not 'q8_0'"),
    ],
)
def test_where_the_vision_side_is_not_to_be_had_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, str],
    features: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: features)
    with pytest.raises(MllamaError, match=message):
        find(**{"vision_encoding": "int8", **asked})


@pytest.mark.parametrize("name", ["model.gguf", "a/model.gguf", ".a/b/model.gguf"])
def test_relative_paths_are_seen_from_here(
    gguf: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MAX would look for them in the model's directory."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(gguf)
    monkeypatch.chdir(tmp_path)
    for files in (find(name), find(weight_path=[name])):
        assert files.weight_path == (file,)
        assert files.model.is_absolute()


def test_a_checkpoint_of_bfloat16_is_q4_k_on_a_cpu_and_itself_on_a_gpu() -> None:
    model = str(checkpoint(dtype="bfloat16"))
    files = find(model)
    assert files.encoding.name == "q4_k"
    assert files.weight_path[0].suffix == ".gguf"
    described = files.summary()
    assert described.startswith("weights in q4_k (the default for bfloat16 on a CPU): ")
    assert described.endswith(" MiB of memory")
    assert find(model, device_type="gpu").encoding.name == "bfloat16"


def test_widths_that_do_not_suit_blocks_stay_floats(tmp_path: Path) -> None:
    text = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
    narrow = write_checkpoint(
        tmp_path / "narrow", tiny_config(text=text), 0, dtype="bfloat16"
    )
    assert find(str(narrow)).encoding.name == "float32"


def test_bfloat16_is_to_be_had_on_a_cpu() -> None:
    model = str(checkpoint(dtype="bfloat16"))
    files = find(model, encoding="bfloat16")
    assert files.encoding.max_name == "float32"  # MAX's options know it on GPUs only
    assert files.settings == ModelSettings(bfloat16_on_cpu=True)
    assert files.weights_bytes * 2 == find(model, encoding="float32").weights_bytes
    on_gpu = find(model, encoding="bfloat16", device_type="gpu")
    assert (on_gpu.encoding.max_name, on_gpu.settings) == ("bfloat16", ModelSettings())


@pytest.mark.parametrize("device_type", ["cpu", "gpu"])
def test_max_runs_what_it_is_told(device_type: str) -> None:
    for name in RUNNABLE[device_type]:
        told: Any = Encoding(name, device_type).max_name
        assert device_type in supported_encoding_supported_devices(told)


def test_what_the_memory_can_not_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sysconf = os.sysconf
    monkeypatch.setattr(
        os, "sysconf", lambda name: 1000 if name == "SC_PHYS_PAGES" else sysconf(name)
    )
    with pytest.raises(MllamaError, match=r"take 17.* has 3.*use .* q4_k"):
        find()
    with pytest.raises(MllamaError, match="a machine with more memory is needed"):
        find(encoding="q6_k")


def test_it_is_quantized_once(gguf: Path) -> None:
    written = gguf.stat().st_mtime_ns
    again = find(encoding="q4_k")
    assert (again.model, again.weight_path) == (MODEL_PATH, (gguf,))
    assert gguf.stat().st_mtime_ns == written
    assert find(encoding="q6_k").weight_path != (gguf,)


def test_other_weights_than_the_directorys_are_quantized(gguf: Path) -> None:
    weights = [MODEL_PATH / "model.safetensors"]
    assert find(weight_path=weights, encoding="q4_k").weight_path == (gguf,)


def test_a_gguf_file_is_a_model_of_its_own(gguf: Path) -> None:
    files = find(str(gguf))
    assert (files.encoding.name, files.weight_path) == ("q4_k", (gguf,))
    config = files.model / "config.json"
    assert config.read_text() == (MODEL_PATH / "config.json").read_text()
    # The vision side is float16 there, and float32 as it is served.
    assert files.weights_bytes == find(encoding="q4_k").weights_bytes
    assert files.weights_bytes > gguf.stat().st_size


def test_a_gguf_file_beside_a_directory(gguf: Path) -> None:
    files = find(weight_path=[gguf])
    assert (files.model, files.encoding.name) == (MODEL_PATH, "q4_k")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"encoding": "q6_k"}, "holds q4_k, not q6_k"),
        ({"device_type": "gpu"}, "the gpu can't run the encoding 'q4_k'"),
        ({"weight_path": 2}, "give --weight-path once"),
        ({"max_length": 10**6}, "limit is 4096"),
    ],
)
def test_what_a_gguf_file_is_not(
    gguf: Path, asked: dict[str, Any], complaint: str
) -> None:
    copies = asked.get("weight_path", 1)
    settings = {"device_type": "cpu", **asked, "weight_path": [gguf] * copies}
    with pytest.raises(MllamaError, match=complaint):
        resolve_model_files(DEMO, **settings)


@pytest.mark.parametrize(
    ("model", "asked", "complaint"),
    [
        ("/nowhere", {}, "neither a directory, a GGUF file, nor a repository"),
        ("org/name", {}, "HF_HUB_OFFLINE forbids"),
        (DEMO, {"hub": HubOptions("v1")}, "is on this machine"),
        (DEMO, {"weight_path": ["/nowhere.gguf"]}, r"no weight file /nowhere\.gguf"),
        (DEMO, {"encoding": "q5_k"}, "can't run the encoding 'q5_k'"),
        (str(MODEL_PATH / "config.json"), {}, "is not a GGUF file"),
    ],
)
def test_refusals(model: str, asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MllamaError, match=complaint):
        resolve_model_files(model, device_type="cpu", **asked)


def test_a_name_of_ollamas_store_is_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    for name in ("ollama:vision", "ollama:me/vision"):
        with pytest.raises(MllamaError, match="no Ollama store"):
            resolve_model_files(name, device_type="cpu")
