"""What can't be had from the hub ends in one line that names the way out, before any
weights are fetched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import DEMO, NAME, Fetch, Machine
from tests.hub.stand_in import TOKEN, StandInHub, StandInRepository

SMALL = {name: DEMO[name] for name in DEMO if name != "model.safetensors"}


def refused(fetch: Fetch, *parts: str) -> None:
    for part in parts:
        assert part in fetch.error


@pytest.fixture
def repository(hub: StandInHub) -> StandInRepository:
    return hub.repositories[NAME]


def test_a_gated_repository_without_a_token(
    hub: StandInHub, machine: Machine, repository: StandInRepository
) -> None:
    repository.gated = True
    refused(
        machine.fetch(), "is gated", f"{hub.endpoint}/{NAME}", "HF_TOKEN", "hf auth"
    )


def test_a_gated_repository_that_the_account_may_not_see(
    hub: StandInHub, machine: Machine, repository: StandInRepository
) -> None:
    repository.gated = repository.shut = True
    machine.environment["HF_TOKEN"] = TOKEN
    refused(machine.fetch(), "has no access", f"ask for it on {hub.endpoint}/{NAME}")


def test_a_wrong_token(machine: Machine) -> None:
    machine.environment["HF_TOKEN"] = "hf_wrong"
    refused(machine.fetch(), "refuses the token", "HF_TOKEN", "hf auth login")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_repository(machine: Machine, token: str | None) -> None:
    if token:
        machine.environment["HF_TOKEN"] = token
    refused(machine.fetch("nobody/nothing"), "nobody/nothing", "check the name")


def test_a_private_repository_looks_as_if_it_were_missing(
    machine: Machine, repository: StandInRepository
) -> None:
    repository.private = True
    refused(machine.fetch(), "has no such model or hides it", "HF_TOKEN")
    machine.environment["HF_TOKEN"] = TOKEN
    assert not machine.fetch().error


def test_a_missing_revision(machine: Machine) -> None:
    machine.fetch()
    refused(
        machine.fetch(options={"revision": "v9"}), "has no revision 'v9'", "/tree/main"
    )


def test_no_network_and_nothing_in_the_cache(hub: StandInHub, machine: Machine) -> None:
    hub.close()
    refused(machine.fetch(), hub.endpoint, "can't be reached", "HF_ENDPOINT")


def test_offline_and_nothing_in_the_cache(hub: StandInHub, machine: Machine) -> None:
    machine.environment["HF_HUB_OFFLINE"] = "1"
    refused(machine.fetch(), "HF_HUB_OFFLINE", NAME, "unset it once")
    assert not hub.requests


def test_offline_and_half_of_it_in_the_cache(machine: Machine) -> None:
    directory = Path(machine.fetch().model)
    (directory / "model.safetensors").unlink()
    machine.environment["HF_HUB_OFFLINE"] = "1"
    refused(machine.fetch(), "in the cache is incomplete", "HF_HUB_OFFLINE")


def test_a_forced_download_does_not_make_do_with_the_cache(
    hub: StandInHub, machine: Machine
) -> None:
    machine.fetch()
    hub.close()
    refused(machine.fetch(options={"force_download": True}), "can't be reached")


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "http://127.0.0.1:1"])
def test_an_endpoint_that_is_none(machine: Machine, endpoint: str) -> None:
    machine.environment["HF_ENDPOINT"] = endpoint
    refused(machine.fetch(), "HF_ENDPOINT")


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_hub_that_answers_nonsense(
    hub: StandInHub, machine: Machine, status: int
) -> None:
    hub.answer = status
    refused(machine.fetch(), str(status), NAME)


def test_a_page_instead_of_the_hub(hub: StandInHub, machine: Machine) -> None:
    hub.answer = 200
    refused(machine.fetch(), "doesn't answer as the hub does", "HF_ENDPOINT")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_can_not_be_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    machine.environment["HF_HUB_CACHE"] = str(tmp_path / "shut")
    refused(machine.fetch(), "can't be used", "HF_HOME")


def test_a_cache_that_is_no_directory(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    machine.environment["HF_HUB_CACHE"] = str(tmp_path / "file")
    refused(machine.fetch(), str(tmp_path / "file"), "can't be used", "HF_HOME")


def nothing_large_was_fetched(hub: StandInHub) -> None:
    assert sum(request.sent for request in hub.asked("/store/")) < 1_000_000


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2VLForX"])
def test_another_architecture_is_refused_before_its_weights_come(
    hub: StandInHub, machine: Machine, architecture: str
) -> None:
    config = json.dumps({"architectures": [architecture], "model_type": "x"})
    hub.repositories[NAME].commit(DEMO | {"config.json": config.encode()})
    refused(machine.fetch(), architecture)
    assert not hub.asked("/store/")
    assert not hub.asked("tokenizer.json")


def test_weights_of_another_shape_are_refused_before_they_come(
    hub: StandInHub, machine: Machine
) -> None:
    config = json.loads(DEMO["config.json"])
    config["text_config"]["intermediate_size"] *= 2
    hub.repositories[NAME].commit(DEMO | {"config.json": json.dumps(config).encode()})
    refused(machine.fetch(), "has shape", "the two are not of one model")
    nothing_large_was_fetched(hub)


def test_quantized_tensors_are_refused_before_they_come(
    hub: StandInHub, machine: Machine
) -> None:
    """Such as those of bitsandbytes, which have this model's configuration."""
    weights = DEMO["model.safetensors"]
    hub.repositories[NAME].commit(
        DEMO | {"model.safetensors": weights.replace(b'"F32"', b'"U32"')}
    )
    refused(machine.fetch(), "elements of type U32")
    nothing_large_was_fetched(hub)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (SMALL, "holds no weights"),
        (SMALL | {"pytorch_model.bin": b"x"}, "PyTorch pickles only"),
        (SMALL | {"original/consolidated.00.pth": b"x"}, "holds no weights"),
        (SMALL | {"a.safetensors": b"", "b.safetensors": b""}, "a.safetensors, b.saf"),
        ({"model.safetensors": DEMO["model.safetensors"]}, "holds no config.json"),
        ({"README.md": b""}, "holds no weights"),
        (SMALL | {"a.gguf": b"", "q/b.gguf": b""}, "--weight-path: a.gguf, q/b.gguf"),
        (SMALL | {"a.gguf": b"no such file"}, "a.gguf of " + NAME + " is no GGUF file"),
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
def test_repositories_that_hold_no_such_model(
    hub: StandInHub, machine: Machine, files: dict[str, bytes], complaint: str
) -> None:
    hub.add(NAME, files)
    refused(machine.fetch(), complaint)
    assert not hub.asked(".pth")
    assert not hub.asked(".bin")


@pytest.mark.parametrize(
    "options",
    [{"revision": "main"}, {"weight_revision": "main"}, {"force_download": True}],
)
def test_what_is_for_the_hub_alone_is_not_ignored(
    machine: Machine, tmp_path: Path, options: dict[str, Any]
) -> None:
    refused(machine.fetch(str(tmp_path), options=options), "is on this machine")


def test_names_that_climb_out_of_the_cache_are_left_alone(
    hub: StandInHub, machine: Machine
) -> None:
    hub.add(NAME, SMALL | {"../../../evil.gguf": b"GGUF"})
    refused(machine.fetch(), "holds no weights")
    assert not list(machine.home.parent.rglob("evil.gguf"))
