"""Models that can't be downloaded or served are refused in one line with a way out.

That happens before any weights are downloaded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import DEMO, NAME, DownloadResult, Machine
from tests.hub.stand_in import StandInHub
from tests.hub.stand_in_protocol import TOKEN, StandInRepository

SMALL = {name: DEMO[name] for name in DEMO if name != "model.safetensors"}


def refused(result: DownloadResult, *parts: str) -> None:
    for part in parts:
        assert part in result.error


@pytest.fixture
def repository(hub: StandInHub) -> StandInRepository:
    return hub.repositories[NAME]


def test_a_gated_repository_asks_for_a_token(
    hub: StandInHub, machine: Machine, repository: StandInRepository
) -> None:
    repository.gated = True
    refused(
        machine.download(), "is gated", f"{hub.endpoint}/{NAME}", "HF_TOKEN", "hf auth"
    )


def test_a_gated_repository_asks_for_access_of_the_account(
    hub: StandInHub, machine: Machine, repository: StandInRepository
) -> None:
    repository.gated = repository.shut = True
    machine.environment["HF_TOKEN"] = TOKEN
    refused(machine.download(), "has no access", f"ask for it on {hub.endpoint}/{NAME}")


def test_an_invalid_token_is_refused(machine: Machine) -> None:
    machine.environment["HF_TOKEN"] = "hf_wrong"
    refused(machine.download(), "refuses the token", "HF_TOKEN", "hf auth login")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_repository_is_named(machine: Machine, token: str | None) -> None:
    if token:
        machine.environment["HF_TOKEN"] = token
    refused(machine.download("nobody/nothing"), "nobody/nothing", "check the name")


def test_a_private_repository_looks_like_a_missing_one(
    machine: Machine, repository: StandInRepository
) -> None:
    repository.private = True
    refused(machine.download(), "has no such model or hides it", "HF_TOKEN")
    machine.environment["HF_TOKEN"] = TOKEN
    assert not machine.download().error


def test_a_missing_revision_is_named(machine: Machine) -> None:
    machine.download()
    refused(
        machine.download(options={"revision": "v9"}),
        "has no revision 'v9'",
        "/tree/main",
    )


def test_no_network_and_an_empty_cache_are_refused(
    hub: StandInHub, machine: Machine
) -> None:
    hub.close()
    refused(machine.download(), hub.endpoint, "can't be reached", "HF_ENDPOINT")


def test_offline_mode_and_an_empty_cache_are_refused(
    hub: StandInHub, machine: Machine
) -> None:
    machine.environment["HF_HUB_OFFLINE"] = "1"
    refused(machine.download(), "HF_HUB_OFFLINE", NAME, "unset it once")
    assert not hub.requests


def test_offline_mode_and_an_incomplete_cache_are_refused(machine: Machine) -> None:
    directory = Path(machine.download().model)
    (directory / "model.safetensors").unlink()
    machine.environment["HF_HUB_OFFLINE"] = "1"
    refused(machine.download(), "in the cache is incomplete", "HF_HUB_OFFLINE")


def test_a_forced_download_does_not_fall_back_on_the_cache(
    hub: StandInHub, machine: Machine
) -> None:
    machine.download()
    hub.close()
    refused(machine.download(options={"force_download": True}), "can't be reached")


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "http://127.0.0.1:1"])
def test_an_invalid_endpoint_is_refused(machine: Machine, endpoint: str) -> None:
    machine.environment["HF_ENDPOINT"] = endpoint
    refused(machine.download(), "HF_ENDPOINT")


@pytest.mark.parametrize("status", [404, 500, 503])
def test_an_error_status_of_the_hub_is_named(
    hub: StandInHub, machine: Machine, status: int
) -> None:
    hub.answer = status
    refused(machine.download(), str(status), NAME)


def test_a_server_that_is_no_hub_is_refused(hub: StandInHub, machine: Machine) -> None:
    hub.answer = 200
    refused(machine.download(), "doesn't answer like the hub", "HF_ENDPOINT")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_refused(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    machine.environment["HF_HUB_CACHE"] = str(tmp_path / "shut")
    refused(machine.download(), "can't be used", "HF_HOME")


def test_a_cache_that_is_a_file_is_refused(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    machine.environment["HF_HUB_CACHE"] = str(tmp_path / "file")
    refused(machine.download(), str(tmp_path / "file"), "can't be used", "HF_HOME")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2VLForX"])
def test_another_architecture_is_refused(
    hub: StandInHub, machine: Machine, architecture: str
) -> None:
    config = json.dumps({"architectures": [architecture], "model_type": "x"})
    hub.repositories[NAME].commit(DEMO | {"config.json": config.encode()})
    refused(machine.download(), architecture)
    assert not hub.requests_for("/store/")
    assert not hub.requests_for("tokenizer.json")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (SMALL, "has no weights"),
        (SMALL | {"pytorch_model.bin": b"x"}, "only PyTorch pickles"),
        (SMALL | {"original/consolidated.00.pth": b"x"}, "has no weights"),
        (SMALL | {"a.safetensors": b"", "b.safetensors": b""}, "a.safetensors, b.saf"),
        ({"model.safetensors": DEMO["model.safetensors"]}, "has no config.json"),
        ({"README.md": b""}, "has no weights"),
        (SMALL | {"a.gguf": b"", "q/b.gguf": b""}, "--weight-path: a.gguf, q/b.gguf"),
        (
            SMALL | {"a.gguf": b"no such file"},
            "a.gguf of " + NAME + " is not a GGUF file",
        ),
        (
            SMALL
            | {
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "model-1.safetensors"}}
                ).encode()
            },
            "lacks model-1.safetensors",
        ),
        (
            SMALL
            | {
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "../../model-1.safetensors"}}
                ).encode()
            },
            "only safetensors files next to the index are read",
        ),
        (SMALL | {"model.safetensors": b"\xff" * 64}, "is damaged"),
    ],
)
def test_repositories_without_a_servable_model_are_refused(
    hub: StandInHub, machine: Machine, files: dict[str, bytes], complaint: str
) -> None:
    hub.add(NAME, files)
    refused(machine.download(), complaint)
    assert not hub.requests_for(".pth")
    assert not hub.requests_for(".bin")


@pytest.mark.parametrize(
    "options",
    [{"revision": "main"}, {"weight_revision": "main"}, {"force_download": True}],
)
def test_options_of_the_hub_are_refused_for_a_directory(
    machine: Machine, tmp_path: Path, options: dict[str, Any]
) -> None:
    refused(machine.download(str(tmp_path), options=options), "is on this machine")


def test_names_that_leave_the_cache_are_ignored(
    hub: StandInHub, machine: Machine
) -> None:
    hub.add(NAME, SMALL | {"../../../evil.gguf": b"GGUF"})
    refused(machine.download(), "has no weights")
    assert not list(machine.home.parent.rglob("evil.gguf"))


def test_an_adapter_as_the_model_points_to_lora_path(
    hub: StandInHub, machine: Machine
) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": "owner/base"}
    hub.repositories[NAME].commit(
        {
            "adapter_config.json": json.dumps(settings).encode(),
            "adapter_model.safetensors": b"",
        }
    )
    refused(
        machine.download(),
        f"{NAME} is a LoRA adapter for owner/base, not a whole model",
        "--lora-path",
    )
