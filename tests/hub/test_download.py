"""A repository is downloaded into the hub's cache once, and no more than needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.hub.conftest import DEMO, NAME, UNNEEDED, Machine
from tests.hub.stand_in import StandInHub
from tests.hub.stand_in_protocol import TOKEN

WEIGHTS = DEMO["model.safetensors"]

CUT = 5_000_000
"""Bytes that arrive before something happens."""


def test_only_files_that_the_model_needs_are_downloaded(
    hub: StandInHub, machine: Machine
) -> None:
    result = machine.download()
    directory = Path(result.model)
    held = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert held == {name: DEMO[name] for name in DEMO if name != "README.md"}
    assert result.weights == []
    for name in UNNEEDED:
        assert not hub.requests_for(f"/{name}") + hub.requests_for(f"/{name}", "HEAD")
    assert f"downloading {NAME}" in result.stderr
    assert not machine.partial_files()


def test_an_adapter_beside_a_model_is_announced(
    hub: StandInHub, machine: Machine
) -> None:
    adapter = {
        "adapter_config.json": json.dumps({"peft_type": "LORA"}).encode(),
        "adapter_model.safetensors": b"",
    }
    assert machine.download().notes == []
    hub.add(NAME, DEMO | adapter)
    result = machine.download()
    (note,) = result.notes
    assert note.startswith(f"{NAME} also has a LoRA adapter, which is not used")
    assert f"hf download {NAME} --local-dir DIR" in note
    assert not adapter.keys() & {file.name for file in Path(result.model).iterdir()}
    # One that was downloaded is found where the model is.
    (Path(result.model) / "adapter_config.json").write_text("{}")
    assert machine.download().notes == []


def test_code_is_downloaded_only_if_it_is_trusted(
    hub: StandInHub, machine: Machine
) -> None:
    code = {"own.py": b"x = 1", "vocab.txt": b"words"}
    hub.add(NAME, DEMO | UNNEEDED | code)
    names = {file.name for file in Path(machine.download().model).iterdir()}
    assert not names & code.keys()
    result = machine.download(options={"trust_remote_code": True})
    held = {file.name: file.read_bytes() for file in Path(result.model).iterdir()}
    assert code.items() <= held.items()
    assert not held.keys() & UNNEEDED.keys() - {"README.md"}


def test_untrusted_tokenizer_code_is_refused_before_the_weights(
    hub: StandInHub, machine: Machine
) -> None:
    named = {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    settings = {"tokenizer_config.json": json.dumps(named).encode()}
    hub.add(NAME, DEMO | settings | {"own.py": b"x = 1"})
    command = ["serve", "--devices", "cpu", "--model-path", NAME]
    done = machine.mllama(*command)
    assert done.returncode == 2
    assert "runs only with --trust-remote-code" in done.stderr
    assert not hub.requests_for("/store/")


def test_the_configuration_is_downloaded_first_and_the_weights_last(
    hub: StandInHub, machine: Machine
) -> None:
    machine.download()
    files = [
        request.path.rpartition("/")[2] for request in hub.requests_for("/resolve/")
    ]
    first_of_weights = files.index("model.safetensors")
    assert files[0] == "config.json"
    assert "tokenizer.json" in files[:first_of_weights]
    assert set(files[first_of_weights:]) == {"model.safetensors"}


def test_a_second_start_downloads_nothing(hub: StandInHub, machine: Machine) -> None:
    first = machine.download()
    hub.requests.clear()
    second = machine.download()
    assert second.model == first.model
    assert [request.path for request in hub.requests] == [
        f"/api/models/{NAME}/revision/main?blobs=true"
    ]
    assert second.stderr == ""


def test_a_forced_download_replaces_every_file(
    hub: StandInHub, machine: Machine
) -> None:
    directory = Path(machine.download().model)
    blob = (directory / "model.safetensors").resolve()
    blob.write_bytes(b"spoilt")
    (directory / "config.json").resolve().write_bytes(DEMO["config.json"] + b" ")
    hub.requests.clear()
    machine.download(options={"force_download": True})
    assert blob.read_bytes() == WEIGHTS
    assert (directory / "config.json").read_bytes() == DEMO["config.json"]
    assert hub.requests_for("tokenizer.json")


def test_each_revision_has_a_directory(hub: StandInHub, machine: Machine) -> None:
    config = json.loads(DEMO["config.json"])
    config["text_config"]["max_position_embeddings"] = 1234
    other = DEMO | {"config.json": json.dumps(config).encode()}
    commit = hub.repositories[NAME].commit(other, "refs/pr/1")
    main = machine.download()
    hub.requests.clear()
    for revision in ("refs/pr/1", commit):
        result = machine.download(options={"revision": revision})
        assert Path(result.model).name == commit
        read = json.loads((Path(result.model) / "config.json").read_text())
        assert read["text_config"]["max_position_embeddings"] == 1234
    assert main.model != result.model
    # The cache has the same weights already; only their header was read.
    assert sum(request.sent for request in hub.requests_for("/store/")) < 1_000_000


def test_a_branch_that_moved_is_followed(hub: StandInHub, machine: Machine) -> None:
    old = machine.download()
    commit = hub.repositories[NAME].commit(DEMO | {"new.txt": b"new"})
    new = machine.download()
    assert old.model != new.model
    assert Path(new.model).name == commit


def test_the_token_is_sent_to_the_hub_only(hub: StandInHub, machine: Machine) -> None:
    hub.repositories[NAME].gated = True
    machine.environment["HF_TOKEN"] = TOKEN
    assert not machine.download().error
    asked = [request for request in hub.requests if request.host == "127.0.0.1"]
    assert all(r.headers["Authorization"] == f"Bearer {TOKEN}" for r in asked)
    store = [request for request in hub.requests if request.host == "localhost"]
    assert store
    assert not any("Authorization" in request.headers for request in store)


def test_the_cache_follows_the_environment(machine: Machine, tmp_path: Path) -> None:
    machine.environment["HF_HUB_CACHE"] = str(tmp_path / "elsewhere")
    result = machine.download()
    assert Path(result.model).is_relative_to(tmp_path / "elsewhere")


def test_the_index_names_the_shards(hub: StandInHub, machine: Machine) -> None:
    hub.repositories[NAME].commit(shards() | UNNEEDED | {"extra.safetensors": b"?"})
    result = machine.download()
    assert set(shards()) <= {file.name for file in Path(result.model).iterdir()}
    assert not hub.requests_for("extra.safetensors", "HEAD")
    assert machine.download().stderr == ""


def shards() -> dict[str, bytes]:
    """The demo model with its tensors in two files."""
    length = int.from_bytes(WEIGHTS[:8], "little")
    header = json.loads(WEIGHTS[8 : 8 + length])
    data = WEIGHTS[8 + length :]
    names = sorted(name for name in header if name != "__metadata__")
    files = {}
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        content, entries = b"", {}
        for name in part:
            first, last = header[name]["data_offsets"]
            entries[name] = header[name] | {
                "data_offsets": [len(content), len(content) + last - first]
            }
            content += data[first:last]
            places[name] = file
        text = json.dumps(entries).encode()
        files[file] = len(text).to_bytes(8, "little") + text + content
    index = {"metadata": {}, "weight_map": places}
    small = {n: c for n, c in DEMO.items() if n != "model.safetensors"}
    return files | {
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: small[name] for name in small if name != "README.md"},
    }


def test_importing_the_package_does_not_import_the_client() -> None:
    """The client would read the environment too early."""
    code = (
        "import sys, mllama, mllama.cli.main, mllama.cli.generate, mllama.cli.quantize,"
        "mllama.llm, mllama.hub.download; sys.exit('huggingface_hub' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
