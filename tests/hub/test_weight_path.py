"""``--weight-path`` may name files of the hub, and a GGUF file may be a whole model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama.demo_model import MODEL_PATH
from mllama.launch.resolve import resolve_model_files
from tests.hub.conftest import DEMO, NAME, Machine
from tests.hub.stand_in import StandInHub

SMALL = {name: DEMO[name] for name in DEMO if name != "model.safetensors"}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The demo model in q4_k."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLAMA_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = resolve_model_files(str(MODEL_PATH), encoding="q4_k", device_type="cpu")
        files = found.ensure_quantized(quiet=True)
    return files.weight_path[0].read_bytes()


def test_a_repository_of_one_gguf_file_is_a_model(
    hub: StandInHub, machine: Machine, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(machine.home / "mllama"))
    hub.add("maker/model-GGUF", {"README.md": b"", "model-q4_k.gguf": gguf})
    result = machine.download("maker/model-GGUF")
    assert Path(result.model).read_bytes() == gguf
    files = resolve_model_files(result.model, device_type="cpu")
    assert files.encoding.name == "q4_k"
    machine.environment["HF_HUB_OFFLINE"] = "1"
    assert machine.download("maker/model-GGUF").model == result.model


def test_a_gguf_file_beside_a_configuration_is_the_weights(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add(NAME, SMALL | {"model.gguf": gguf})
    result = machine.download()
    assert (Path(result.model) / "tokenizer.json").is_file()
    assert result.weights == [f"{result.model}/model.gguf"]


@pytest.mark.parametrize("path", ["b.gguf", "q/b.gguf", f"{NAME}/b.gguf"])
def test_a_weight_path_chooses_one_of_several_files(
    hub: StandInHub, machine: Machine, gguf: bytes, path: str
) -> None:
    name = path.removeprefix(f"{NAME}/")
    hub.add(NAME, DEMO | {"a.gguf": b"GGUF" * 99, name: gguf})
    result = machine.download(weight_path=[path])
    assert result.weights == [f"{result.model}/{name}"]
    assert not hub.requests_for("a.gguf")
    assert not hub.requests_for("model.safetensors")


def test_weights_may_come_from_another_repository(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add("maker/model-GGUF", {"x/model.gguf": gguf})
    for path in ("maker/model-GGUF/x/model.gguf", "maker/model-GGUF"):
        result = machine.download(weight_path=[path])
        (weights,) = result.weights
        assert Path(weights).read_bytes() == gguf
        assert "models--maker--model-GGUF" in weights
        assert Path(result.model).is_relative_to(machine.cache)
    assert not hub.requests_for("model.safetensors")


def test_a_local_directory_may_take_weights_of_the_hub(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add("maker/model-GGUF", {"model.gguf": gguf})
    result = machine.download(
        str(MODEL_PATH), weight_path=["maker/model-GGUF/model.gguf"]
    )
    assert result.model == str(MODEL_PATH)
    assert Path(result.weights[0]).read_bytes() == gguf


def test_a_local_weight_file_takes_precedence(
    hub: StandInHub, machine: Machine, tmp_path: Path, gguf: bytes
) -> None:
    (tmp_path / "mine.gguf").write_bytes(gguf)
    result = machine.download(weight_path=[str(tmp_path / "mine.gguf")])
    assert result.weights == [str(tmp_path / "mine.gguf")]
    assert (Path(result.model) / "tokenizer.json").is_file()
    assert not hub.requests_for("/store/")


def test_weights_may_come_from_another_revision(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    commit = hub.repositories[NAME].commit(DEMO | {"model.gguf": gguf}, "quantized")
    options = {"weight_revision": "quantized"}
    result = machine.download(weight_path=["model.gguf"], options=options)
    assert commit not in result.model
    assert commit in result.weights[0]
    plain = machine.download(options=options)
    assert plain.weights == [f"{machine.cache}/snapshots/{commit}/model.safetensors"]


@pytest.mark.parametrize(
    ("model", "path", "complaint"),
    [
        (NAME, "c.gguf", "which has model.safetensors"),
        (NAME, f"{NAME}/c.gguf", "which has model.safetensors"),
        (NAME, "pytorch_model.bin", "neither safetensors nor GGUF"),
        (NAME, "./c.gguf", "there is no weight file ./c.gguf"),
        (NAME, "nobody/nothing/c.gguf", "no weight file nobody/nothing/c.gguf here"),
        (NAME, "nobody/nothing", "no weight file nobody/nothing here"),
        (str(MODEL_PATH), "c.gguf", "there is no weight file c.gguf"),
        (str(MODEL_PATH), "folder/c.gguf", "there is no weight file folder/c.gguf"),
        (str(MODEL_PATH), "/nowhere/c.gguf", "there is no weight file /nowhere/c.gg"),
    ],
)
def test_missing_weight_files_are_named(
    machine: Machine, model: str, path: str, complaint: str
) -> None:
    assert complaint in machine.download(model, weight_path=[path]).error


def test_a_gguf_file_of_another_architecture_is_refused(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    key = b"general.architecture" + (8).to_bytes(4, "little")
    start = gguf.index(key) + len(key) + 8
    other = gguf[:start] + b"qwen2a" + gguf[start + 6 :]
    hub.add("maker/model-GGUF", {"model.gguf": other})
    result = machine.download("maker/model-GGUF")
    assert "architecture 'qwen2a', not 'mllama'" in result.error
    assert sum(request.sent for request in hub.requests_for("/store/")) < 1_000_000


def test_quantizing_a_quantized_file_is_refused(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add("maker/model-GGUF", {"model.gguf": gguf})
    result = machine.download("maker/model-GGUF", gguf=False)
    assert "use the original checkpoint" in result.error
    assert not hub.requests_for("/store/")
