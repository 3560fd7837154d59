"""What a user names becomes files to load, or a refusal that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mllama.demo import MODEL_PATH
from mllama.engine.model_files import find_model_files
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions

DEMO = str(MODEL_PATH)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def gguf() -> Path:
    """The demo model in q4_k."""
    files = find_model_files(DEMO, encoding="q4_k", device_type="cpu")
    return files.weight_path[0]


def test_a_checkpoint_of_floats_is_float32_on_a_cpu() -> None:
    files = find_model_files(DEMO, device_type="cpu")
    assert (files.model, files.weight_path, files.encoding) == (DEMO, (), "float32")


def test_it_is_quantised_once(gguf: Path) -> None:
    written = gguf.stat().st_mtime_ns
    again = find_model_files(DEMO, encoding="q4_k", device_type="cpu")
    assert (again.model, again.weight_path, again.encoding) == (DEMO, (gguf,), "q4_k")
    assert gguf.stat().st_mtime_ns == written
    other = find_model_files(DEMO, encoding="q6_k", device_type="cpu")
    assert other.weight_path != (gguf,)


def test_a_gguf_file_is_a_model_of_its_own(gguf: Path) -> None:
    files = find_model_files(str(gguf), device_type="cpu")
    assert files.encoding == "q4_k"
    assert files.weight_path == (gguf,)
    config = Path(files.model) / "config.json"
    assert config.read_text() == (MODEL_PATH / "config.json").read_text()


def test_a_gguf_file_beside_a_directory(gguf: Path) -> None:
    files = find_model_files(DEMO, weight_path=[gguf], device_type="cpu")
    assert (files.model, files.encoding) == (DEMO, "q4_k")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"encoding": "q6_k"}, "holds q4_k, not q6_k"),
        ({"device_type": "gpu"}, "the gpu can't run the encoding 'q4_k'"),
        ({"weight_path": 2}, "is a whole model"),
        ({"max_length": 10**6}, "at most 4096"),
    ],
)
def test_what_a_gguf_file_is_not(
    gguf: Path, asked: dict[str, Any], complaint: str
) -> None:
    copies = asked.get("weight_path", 1)
    settings = {"device_type": "cpu", **asked, "weight_path": [gguf] * copies}
    with pytest.raises(MllamaError, match=complaint):
        find_model_files(DEMO, **settings)


@pytest.mark.parametrize(
    ("model", "asked", "complaint"),
    [
        ("/nowhere", {}, "neither a directory, a GGUF file, nor a repository"),
        ("org/name", {}, "HF_HUB_OFFLINE forbids"),
        (DEMO, {"hub": HubOptions("v1")}, "is on this machine"),
        (DEMO, {"weight_path": ["/nowhere.gguf"]}, r"no weight file /nowhere\.gguf"),
        (DEMO, {"encoding": "q5_k"}, "can't run the encoding 'q5_k'"),
        (
            DEMO,
            {"weight_path": [MODEL_PATH / "model.safetensors"], "encoding": "q4_k"},
            "`mllama quantize` makes q4_k of them",
        ),
        (str(MODEL_PATH / "config.json"), {}, "is no GGUF file"),
    ],
)
def test_refusals(model: str, asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MllamaError, match=complaint):
        find_model_files(model, device_type="cpu", **asked)


def test_a_name_of_ollamas_store_is_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    for name in ("ollama:vision", "ollama:me/vision"):
        with pytest.raises(MllamaError, match="no store of Ollama's"):
            find_model_files(name, device_type="cpu")
