"""A repository becomes a directory of the hub's cache, fetched once and no more than
needed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mllama.hub.content_key import content_key
from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import resolve_model_files
from tests.hub.conftest import DEMO, NAME, UNNEEDED, Machine
from tests.hub.stand_in import TOKEN, StandInHub

WEIGHTS = DEMO["model.safetensors"]

CUT = 5_000_000
"""Bytes that arrive before something happens."""


def test_only_what_the_model_needs_is_fetched(
    hub: StandInHub, machine: Machine
) -> None:
    fetch = machine.fetch()
    directory = Path(fetch.model)
    held = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert held == {name: DEMO[name] for name in DEMO if name != "README.md"}
    assert fetch.weights == []
    for name in UNNEEDED:
        assert not hub.asked(f"/{name}") + hub.asked(f"/{name}", "HEAD")
    assert f"downloading {NAME}" in fetch.stderr
    assert not machine.partial_files()


def test_code_is_fetched_only_if_it_is_trusted(
    hub: StandInHub, machine: Machine
) -> None:
    code = {"own.py": b"x = 1", "vocab.txt": b"words"}
    hub.add(NAME, DEMO | UNNEEDED | code)
    names = {file.name for file in Path(machine.fetch().model).iterdir()}
    assert not names & code.keys()
    fetch = machine.fetch(options={"trust_remote_code": True})
    held = {file.name: file.read_bytes() for file in Path(fetch.model).iterdir()}
    assert code.items() <= held.items()
    assert not held.keys() & UNNEEDED.keys() - {"README.md"}


def test_a_tokenizers_code_is_refused_before_the_weights_come(
    hub: StandInHub, machine: Machine
) -> None:
    named = {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    settings = {"tokenizer_config.json": json.dumps(named).encode()}
    hub.add(NAME, DEMO | settings | {"own.py": b"x = 1"})
    command = ["serve", "--devices", "cpu", "--model-path", NAME]
    done = machine.mllama(*command)
    assert done.returncode == 2
    assert "runs only with --trust-remote-code" in done.stderr
    assert not hub.asked("/store/")


def test_the_configuration_comes_first_and_the_weights_last(
    hub: StandInHub, machine: Machine
) -> None:
    machine.fetch()
    files = [request.path.rpartition("/")[2] for request in hub.asked("/resolve/")]
    first_of_weights = files.index("model.safetensors")
    assert files[0] == "config.json"
    assert "tokenizer.json" in files[:first_of_weights]
    assert set(files[first_of_weights:]) == {"model.safetensors"}


def test_a_second_start_downloads_nothing(hub: StandInHub, machine: Machine) -> None:
    first = machine.fetch()
    hub.requests.clear()
    second = machine.fetch()
    assert second.model == first.model
    assert [request.path for request in hub.requests] == [
        f"/api/models/{NAME}/revision/main?blobs=true"
    ]
    assert second.stderr == ""


def test_force_downloads_everything_again(hub: StandInHub, machine: Machine) -> None:
    directory = Path(machine.fetch().model)
    blob = (directory / "model.safetensors").resolve()
    blob.write_bytes(b"spoilt")
    (directory / "config.json").resolve().write_bytes(DEMO["config.json"] + b" ")
    hub.requests.clear()
    machine.fetch(options={"force_download": True})
    assert blob.read_bytes() == WEIGHTS
    assert (directory / "config.json").read_bytes() == DEMO["config.json"]
    assert hub.asked("tokenizer.json")


def test_each_revision_has_its_directory(hub: StandInHub, machine: Machine) -> None:
    config = json.loads(DEMO["config.json"])
    config["text_config"]["max_position_embeddings"] = 1234
    other = DEMO | {"config.json": json.dumps(config).encode()}
    commit = hub.repositories[NAME].commit(other, "refs/pr/1")
    main = machine.fetch()
    hub.requests.clear()
    for revision in ("refs/pr/1", commit):
        fetch = machine.fetch(options={"revision": revision})
        assert Path(fetch.model).name == commit
        read = json.loads((Path(fetch.model) / "config.json").read_text())
        assert read["text_config"]["max_position_embeddings"] == 1234
    assert main.model != fetch.model
    # The weights are the same and here already; only their header was looked at.
    assert sum(request.sent for request in hub.asked("/store/")) < 1_000_000


def test_a_branch_that_moved_is_followed(hub: StandInHub, machine: Machine) -> None:
    old = machine.fetch()
    commit = hub.repositories[NAME].commit(DEMO | {"new.txt": b"new"})
    new = machine.fetch()
    assert old.model != new.model
    assert Path(new.model).name == commit


def test_a_connection_that_breaks_is_taken_up_again(
    hub: StandInHub, machine: Machine
) -> None:
    hub.cut_after = [CUT]
    fetch = machine.fetch()
    assert (Path(fetch.model) / "model.safetensors").read_bytes() == WEIGHTS
    first, second = hub.asked("/store/")[-2:]
    assert first.sent == CUT
    assert second.headers["Range"] == f"bytes={CUT}-"
    assert second.sent == len(WEIGHTS) - CUT


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_program_is_resumed_by_the_next(
    hub: StandInHub, machine: Machine, tmp_path: Path, end: signal.Signals
) -> None:
    hub.stall_after = CUT
    with subprocess.Popen(
        [sys.executable, "-m", "mllama", "quantize", NAME, str(tmp_path / "x.gguf")],
        env=machine.environment,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert hub.stalled.wait(60)
        while not any(f.stat().st_size == CUT for f in machine.partial_files()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(end)
        process.wait(60)
    hub.stall_after = None
    hub.requests.clear()
    fetch = machine.fetch()
    assert (Path(fetch.model) / "model.safetensors").read_bytes() == WEIGHTS
    assert not machine.partial_files()
    (rest,) = hub.asked("/store/")[1:]  # The first is for the header.
    assert rest.headers["Range"] == f"bytes={CUT}-"
    assert rest.sent == len(WEIGHTS) - CUT


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    hub: StandInHub, machine: Machine
) -> None:
    hub.repositories[NAME].gated = True
    machine.environment["HF_TOKEN"] = TOKEN
    assert not machine.fetch().error
    asked = [request for request in hub.requests if request.host == "127.0.0.1"]
    assert all(r.headers["Authorization"] == f"Bearer {TOKEN}" for r in asked)
    store = [request for request in hub.requests if request.host == "localhost"]
    assert store
    assert not any("Authorization" in request.headers for request in store)


def test_the_cache_may_be_elsewhere(machine: Machine, tmp_path: Path) -> None:
    machine.environment["HF_HUB_CACHE"] = str(tmp_path / "elsewhere")
    fetch = machine.fetch()
    assert Path(fetch.model).is_relative_to(tmp_path / "elsewhere")


def test_without_the_hub_the_copy_is_used(hub: StandInHub, machine: Machine) -> None:
    first = machine.fetch()
    hub.close()
    second = machine.fetch()
    assert second.model == first.model
    (line,) = second.stderr.splitlines()
    assert hub.endpoint in line
    assert "using the copy in the cache" in line


def test_offline_asks_nobody(hub: StandInHub, machine: Machine) -> None:
    first = machine.fetch()
    hub.requests.clear()
    machine.environment["HF_HUB_OFFLINE"] = "1"
    second = machine.fetch()
    assert second.model == first.model
    assert second.stderr == ""
    assert not hub.requests


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_does_not_stop_a_second_start(
    hub: StandInHub, machine: Machine, status: int
) -> None:
    first = machine.fetch()
    hub.answer = status
    second = machine.fetch()
    assert second.model == first.model
    assert str(status) in second.stderr


def test_a_repository_that_is_gone_is_still_in_the_cache(
    hub: StandInHub, machine: Machine
) -> None:
    first = machine.fetch()
    hub.repositories.clear()
    assert machine.fetch().model == first.model


def test_shards_are_those_of_the_index(hub: StandInHub, machine: Machine) -> None:
    hub.repositories[NAME].commit(shards() | UNNEEDED | {"extra.safetensors": b"?"})
    fetch = machine.fetch()
    assert set(shards()) <= {file.name for file in Path(fetch.model).iterdir()}
    assert not hub.asked("extra.safetensors", "HEAD")
    assert machine.fetch().stderr == ""


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


def quantized(model: str) -> ModelFiles:
    files = resolve_model_files(model, encoding="q6_k", device_type="cpu")
    return files.quantized(quiet=True)


def test_what_was_quantized_of_a_snapshot_is_found_again(
    hub: StandInHub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a forced download nor a commit that leaves the weights alone makes it be
    quantized anew."""
    monkeypatch.setenv("MLLAMA_CACHE", str(machine.home / "mllama"))
    first = machine.fetch()
    q6 = quantized(first.model)
    written = q6.weight_path[0].stat().st_mtime_ns
    machine.fetch(options={"force_download": True})
    hub.repositories[NAME].commit(DEMO | {"new.txt": b"new"})
    for fetch in (first, machine.fetch()):
        again = quantized(fetch.model)
        assert again.weight_path == q6.weight_path
    assert q6.weight_path[0].stat().st_mtime_ns == written


def test_files_outside_of_the_cache_are_known_by_place_and_time(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    before = content_key(file)
    file.write_bytes(b"three")
    assert content_key(file) != before
    link = tmp_path / "blobs"
    link.mkdir()
    (link / "weights").write_bytes(b"x")
    (tmp_path / "link").symlink_to(link / "weights")
    before = content_key(tmp_path / "link")
    (link / "weights").write_bytes(b"xy")
    assert content_key(tmp_path / "link") != before


def test_two_programs_at_once_download_it_once(
    hub: StandInHub, machine: Machine
) -> None:
    both = [
        subprocess.Popen(
            machine.command(),
            env=machine.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    models = {
        json.loads(process.communicate(timeout=60)[0])["model"] for process in both
    }
    assert len(models) == 1
    whole = [request for request in hub.asked("/store/") if request.sent > CUT]
    assert len(whole) == 1


def test_importing_the_package_leaves_the_hubs_client_alone() -> None:
    """It would read its environment too early."""
    code = (
        "import sys, mllama, mllama.cli.main, mllama.cli.generate, mllama.cli.quantize,"
        "mllama.llm, mllama.hub.download; sys.exit('huggingface_hub' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
