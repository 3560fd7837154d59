"""A model that a user names becomes files to load, or a refusal that helps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from max.pipelines import supported_encoding_supported_devices

from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.kernels import dispatch
from mllama.launch import resolve as resolve_module
from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import resolve_model_files
from mllama.max_model.settings import ModelSettings
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.encodings import (
    RUNNABLE,
    Encoding,
    with_image_cache_encoding,
    with_kv_cache_encoding,
)
from mllama.weights.names import expected_tensors
from mllama.weights.quantization_plan import int8_vision_formats
from tests.reference.checkpoints import checkpoint, tiny_config, write_checkpoint

DEMO = str(MODEL_PATH)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def resolve(model: str = DEMO, **options: Any) -> ModelFiles:
    files = resolve_model_files(model, **{"device_type": "cpu", **options})
    return files.ensure_quantized(quiet=True)


@pytest.fixture
def gguf() -> Path:
    """The demo model in q4_k."""
    return resolve(encoding="q4_k").weight_path[0]


def test_a_float32_checkpoint_stays_float32_on_a_cpu() -> None:
    files = resolve()
    weights = (MODEL_PATH / "model.safetensors",)
    assert (files.model, files.weight_path) == (MODEL_PATH, weights)
    assert (files.encoding.name, files.encoding.max_name) == ("float32", "float32")
    assert files.settings == ModelSettings()
    # All weights are counted, norms and biases too, at four bytes each.
    assert files.weights_bytes == open_checkpoint(MODEL_PATH).nbytes


def test_int8_vision_takes_a_quarter_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    floats, files = resolve(), resolve(vision_encoding="int8")
    config = floats.config
    matrices = sum(
        math.prod(expected_tensors(config)[name])
        for name in int8_vision_formats(config)
    )
    assert floats.weights_bytes - files.weights_bytes == 3 * matrices > 1e6
    assert ", vision in int8: " in files.summary()
    assert files.settings == ModelSettings(int8_vision=True)
    quantized = resolve(encoding="q4_k", vision_encoding="int8")
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
def test_int8_vision_is_refused_where_it_can_not_run(
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, str],
    features: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: features)
    with pytest.raises(MllamaError, match=message):
        resolve(**{"vision_encoding": "int8", **asked})


@pytest.mark.parametrize(
    ("encoding", "requested", "served"),
    [
        ("float32", "auto", None),
        ("float32", "float32", None),
        ("float32", "bfloat16", "bfloat16"),
        ("float32", "int8", "int8"),
        ("q4_k", "auto", None),
        ("q4_k", "bfloat16", None),
        ("q4_k", "float32", "float32"),
        ("q4_k", "int8", "int8"),
        ("bfloat16", "bfloat16", None),
    ],
)
def test_the_image_cache_is_in_the_requested_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str, requested: str, served: str | None
) -> None:
    """What is the default anyway has the default's compiled graphs."""
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    files = resolve(encoding=encoding, image_cache_encoding=requested)
    assert files.settings.image_cache_encoding == served
    suffix = "" if served is None else f", image cache in {served}"
    assert files.encoding.full_name == encoding + suffix
    both = resolve(encoding="q4_k", vision_encoding="int8", image_cache_encoding="int8")
    assert both.encoding.full_name == "q4_k, vision in int8, image cache in int8"


@pytest.mark.parametrize(
    ("encoding", "requested", "served"),
    [
        ("float32", "auto", None),
        ("float32", "float32", None),
        ("float32", "bfloat16", "bfloat16"),
        ("q4_k", "auto", None),
        ("q4_k", "float32", None),
        ("q4_k", "bfloat16", "bfloat16"),
        ("q4_k", "int8", "int8"),
        ("bfloat16", "auto", None),
        ("bfloat16", "bfloat16", None),
    ],
)
def test_the_kv_cache_is_in_the_requested_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str, requested: str, served: str | None
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    files = resolve(encoding=encoding, kv_cache_encoding=requested)
    assert files.settings.kv_cache_encoding == served
    suffix = "" if served is None else f", KV cache in {served}"
    assert files.encoding.full_name == encoding + suffix


@pytest.mark.parametrize(
    ("asked", "features", "message"),
    [
        (
            {"device_type": "gpu"},
            dispatch.AVX2_FEATURES,
            "int8 is for CPUs; on a GPU with bfloat16 weights, the {cache} is in "
            "bfloat16; leave it out",
        ),
        (
            {"encoding": "bfloat16"},
            dispatch.AVX2_FEATURES,
            "with bfloat16 ones, the {cache} is in bfloat16; leave it out",
        ),
        (
            {"encoding": "q4_k"},
            ("aarch64",),
            "custom ops; with MAX's, the {cache} is in float32; leave it out",
        ),
        (
            {"requested": "q8_0"},
            dispatch.AVX2_FEATURES,
            "the {cache} can be in auto, float32, bfloat16, int8, not 'q8_0'",
        ),
    ],
)
@pytest.mark.parametrize("cache", ["image", "kv"])
def test_a_cache_in_int8_is_refused_where_it_can_not_be(
    monkeypatch: pytest.MonkeyPatch,
    cache: str,
    asked: dict[str, str],
    features: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: features)
    others = {name: value for name, value in asked.items() if name != "requested"}
    requested = {f"{cache}_cache_encoding": asked.get("requested", "int8")}
    name = "image cache" if cache == "image" else "KV cache"
    with pytest.raises(MllamaError, match=message.format(cache=name)):
        resolve(**requested, **others)


def test_heads_that_the_custom_ops_do_not_support_have_no_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    config = MllamaConfig.from_path(MODEL_PATH)
    text = config.text_config
    text = replace(text, hidden_size=text.num_attention_heads * 12)
    config = replace(config, text_config=text)
    encoding = Encoding("float32", "cpu")
    assert with_image_cache_encoding(encoding, "float32", config) is encoding
    with pytest.raises(
        MllamaError,
        match="multiple of 8; with 12, the image cache is in float32; leave it out",
    ):
        with_image_cache_encoding(encoding, "int8", config)


def test_blocks_that_the_custom_ops_do_not_multiply_keep_the_kv_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: dispatch.AVX2_FEATURES)
    config = MllamaConfig.from_path(MODEL_PATH)
    config = replace(config, text_config=replace(config.text_config, hidden_size=288))
    with pytest.raises(MllamaError, match="multiple of 256; with 288, the KV cache is"):
        with_kv_cache_encoding(Encoding("q4_0", "cpu"), "int8", config)
    floats = with_kv_cache_encoding(Encoding("float32", "cpu"), "int8", config)
    assert floats.kv_cache == "int8"


@pytest.mark.parametrize("name", ["model.gguf", "a/model.gguf", ".a/b/model.gguf"])
def test_relative_paths_start_from_the_working_directory(
    gguf: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MAX would look for them in the model's directory."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(gguf)
    monkeypatch.chdir(tmp_path)
    for files in (resolve(name), resolve(weight_path=[name])):
        assert files.weight_path == (file,)
        assert files.model.is_absolute()


def test_a_bfloat16_checkpoint_is_q4_k_on_a_cpu_and_bfloat16_on_a_gpu() -> None:
    model = str(checkpoint(dtype="bfloat16"))
    files = resolve(model)
    assert files.encoding.name == "q4_k"
    assert files.weight_path[0].suffix == ".gguf"
    summary = files.summary()
    assert summary.startswith("weights in q4_k (the default for bfloat16 on a CPU): ")
    assert summary.endswith(" MiB of memory")
    assert resolve(model, device_type="gpu").encoding.name == "bfloat16"


def test_widths_that_k_quants_do_not_support_stay_floats(tmp_path: Path) -> None:
    text = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
    narrow = write_checkpoint(
        tmp_path / "narrow", tiny_config(text=text), 0, dtype="bfloat16"
    )
    assert resolve(str(narrow)).encoding.name == "float32"


def test_bfloat16_runs_on_a_cpu() -> None:
    model = str(checkpoint(dtype="bfloat16"))
    files = resolve(model, encoding="bfloat16")
    assert files.encoding.max_name == "float32"  # MAX's options know it on GPUs only
    assert files.settings == ModelSettings(bfloat16_on_cpu=True)
    assert files.weights_bytes * 2 == resolve(model, encoding="float32").weights_bytes
    on_gpu = resolve(model, encoding="bfloat16", device_type="gpu")
    assert (on_gpu.encoding.max_name, on_gpu.settings) == ("bfloat16", ModelSettings())


@pytest.mark.parametrize("device_type", ["cpu", "gpu"])
def test_max_supports_the_encodings_that_it_is_given(device_type: str) -> None:
    for name in RUNNABLE[device_type]:
        told: Any = Encoding(name, device_type).max_name
        assert device_type in supported_encoding_supported_devices(told)


def test_weights_larger_than_the_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The limit of a container, or the machine's memory.
    monkeypatch.setattr(resolve_module, "host_memory_limit", lambda: 4_096_000)
    with pytest.raises(MllamaError, match=r"take 17.* may use 3.*use .* q4_k"):
        resolve()
    with pytest.raises(MllamaError, match="container with more memory is needed"):
        resolve(encoding="q6_k")


def test_a_checkpoint_is_quantized_once(gguf: Path) -> None:
    written = gguf.stat().st_mtime_ns
    again = resolve(encoding="q4_k")
    assert (again.model, again.weight_path) == (MODEL_PATH, (gguf,))
    assert gguf.stat().st_mtime_ns == written
    assert resolve(encoding="q6_k").weight_path != (gguf,)


def test_other_weight_files_are_quantized(gguf: Path) -> None:
    weights = [MODEL_PATH / "model.safetensors"]
    assert resolve(weight_path=weights, encoding="q4_k").weight_path == (gguf,)


def test_a_gguf_file_is_a_whole_model(gguf: Path) -> None:
    files = resolve(str(gguf))
    assert (files.encoding.name, files.weight_path) == ("q4_k", (gguf,))
    config = files.model / "config.json"
    assert config.read_text() == (MODEL_PATH / "config.json").read_text()
    # The vision side is float16 in the file and is served in float32.
    assert files.weights_bytes == resolve(encoding="q4_k").weights_bytes
    assert files.weights_bytes > gguf.stat().st_size


def test_a_gguf_file_gives_weights_to_a_directory(gguf: Path) -> None:
    files = resolve(weight_path=[gguf])
    assert (files.model, files.encoding.name) == (MODEL_PATH, "q4_k")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"encoding": "q6_k"}, "is in q4_k, not q6_k"),
        ({"device_type": "gpu"}, "the gpu can't run the encoding 'q4_k'"),
        ({"weight_path": 2}, "give --weight-path once"),
        ({"max_length": 10**6}, "limit is 4096"),
    ],
)
def test_options_that_a_gguf_file_does_not_fit_are_refused(
    gguf: Path, asked: dict[str, Any], message: str
) -> None:
    copies = asked.get("weight_path", 1)
    settings = {"device_type": "cpu", **asked, "weight_path": [gguf] * copies}
    with pytest.raises(MllamaError, match=message):
        resolve_model_files(DEMO, **settings)


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        ("/nowhere", {}, "neither a directory, a GGUF file, nor a repository"),
        ("org/name", {}, "HF_HUB_OFFLINE forbids"),
        (DEMO, {"hub": HubOptions("v1")}, "is on this machine"),
        (DEMO, {"weight_path": ["/nowhere.gguf"]}, r"no weight file /nowhere\.gguf"),
        (DEMO, {"encoding": "q5_k"}, "can't run the encoding 'q5_k'"),
        (str(MODEL_PATH / "config.json"), {}, "is not a GGUF file"),
    ],
)
def test_bad_models_are_refused(
    model: str, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(MllamaError, match=message):
        resolve_model_files(model, device_type="cpu", **asked)


def test_a_name_of_ollama_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    for name in ("ollama:vision", "ollama:me/vision"):
        with pytest.raises(MllamaError, match="no Ollama store"):
            resolve_model_files(name, device_type="cpu")
