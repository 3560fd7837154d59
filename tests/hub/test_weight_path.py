"""``--weight-path`` may name files of the hub, as MAX's does, and GGUF files alone are
a model."""

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
        files = found.quantized(quiet=True)
    return files.weight_path[0].read_bytes()


def test_a_single_gguf_file_is_a_model_by_itself(
    hub: StandInHub, machine: Machine, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(machine.home / "mllama"))
    hub.add("maker/model-GGUF", {"README.md": b"", "model-q4_k.gguf": gguf})
    fetch = machine.fetch("maker/model-GGUF")
    assert Path(fetch.model).read_bytes() == gguf
    files = resolve_model_files(fetch.model, device_type="cpu")
    assert files.encoding.name == "q4_k"
    machine.environment["HF_HUB_OFFLINE"] = "1"
    assert machine.fetch("maker/model-GGUF").model == fetch.model


def test_beside_configuration_and_tokenizer_it_is_the_weights(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add(NAME, SMALL | {"model.gguf": gguf})
    fetch = machine.fetch()
    assert (Path(fetch.model) / "tokenizer.json").is_file()
    assert fetch.weights == [f"{fetch.model}/model.gguf"]


@pytest.mark.parametrize("path", ["b.gguf", "q/b.gguf", f"{NAME}/b.gguf"])
def test_one_of_several_is_chosen(
    hub: StandInHub, machine: Machine, gguf: bytes, path: str
) -> None:
    name = path.removeprefix(f"{NAME}/")
    hub.add(NAME, DEMO | {"a.gguf": b"GGUF" * 99, name: gguf})
    fetch = machine.fetch(weight_path=[path])
    assert fetch.weights == [f"{fetch.model}/{name}"]
    assert not hub.asked("a.gguf")
    assert not hub.asked("model.safetensors")


def test_weights_of_another_repository(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add("maker/model-GGUF", {"x/model.gguf": gguf})
    for path in ("maker/model-GGUF/x/model.gguf", "maker/model-GGUF"):
        fetch = machine.fetch(weight_path=[path])
        (weights,) = fetch.weights
        assert Path(weights).read_bytes() == gguf
        assert "models--maker--model-GGUF" in weights
        assert Path(fetch.model).is_relative_to(machine.cache)
    assert not hub.asked("model.safetensors")


def test_weights_of_the_hub_for_a_directory(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add("maker/model-GGUF", {"model.gguf": gguf})
    fetch = machine.fetch(str(MODEL_PATH), weight_path=["maker/model-GGUF/model.gguf"])
    assert fetch.model == str(MODEL_PATH)
    assert Path(fetch.weights[0]).read_bytes() == gguf


def test_a_file_here_comes_first_and_nothing_is_downloaded_for_it(
    hub: StandInHub, machine: Machine, tmp_path: Path, gguf: bytes
) -> None:
    (tmp_path / "mine.gguf").write_bytes(gguf)
    fetch = machine.fetch(weight_path=[str(tmp_path / "mine.gguf")])
    assert fetch.weights == [str(tmp_path / "mine.gguf")]
    assert (Path(fetch.model) / "tokenizer.json").is_file()
    assert not hub.asked("/store/")


def test_weights_may_be_of_another_revision(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    commit = hub.repositories[NAME].commit(DEMO | {"model.gguf": gguf}, "quantized")
    options = {"weight_revision": "quantized"}
    fetch = machine.fetch(weight_path=["model.gguf"], options=options)
    assert commit not in fetch.model
    assert commit in fetch.weights[0]
    plain = machine.fetch(options=options)
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
def test_weights_that_are_nowhere(
    machine: Machine, model: str, path: str, complaint: str
) -> None:
    assert complaint in machine.fetch(model, weight_path=[path]).error


def test_a_gguf_file_of_another_model_is_refused_before_it_comes(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    key = b"general.architecture" + (8).to_bytes(4, "little")
    start = gguf.index(key) + len(key) + 8
    other = gguf[:start] + b"qwen2a" + gguf[start + 6 :]
    hub.add("maker/model-GGUF", {"model.gguf": other})
    fetch = machine.fetch("maker/model-GGUF")
    assert "architecture 'qwen2a', not 'mllama'" in fetch.error
    assert sum(request.sent for request in hub.asked("/store/")) < 1_000_000


def test_quantizing_wants_the_original(
    hub: StandInHub, machine: Machine, gguf: bytes
) -> None:
    hub.add("maker/model-GGUF", {"model.gguf": gguf})
    fetch = machine.fetch("maker/model-GGUF", gguf=False)
    assert "use the original checkpoint" in fetch.error
    assert not hub.asked("/store/")
