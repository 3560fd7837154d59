"""Draft models of the hub are checked before their weights are downloaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import NAME, Machine, assert_no_weights_downloaded
from tests.hub.stand_in import StandInHub
from tests.reference.llama import write_llama, write_llama_gguf

DRAFT = "meta-llama/Llama-3.2-1B-Instruct"
GGUF = "someone/Llama-3.2-1B-GGUF"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"), seed=1)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def resolved(machine: Machine, *draft: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hub.draft_child", *draft],
        env=machine.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_checkpoint_is_downloaded(
    hub: StandInHub, machine: Machine, llama: Path
) -> None:
    hub.add(DRAFT, content(llama))
    assert resolved(machine, DRAFT) == {"weights": ["model.safetensors"]}


def test_a_revision_is_downloaded(
    hub: StandInHub, machine: Machine, llama: Path, tmp_path: Path
) -> None:
    """Of a checkpoint, and of one file."""
    hub.add(DRAFT, {}).commit(content(llama), "v1")
    assert "has no weights" in resolved(machine, DRAFT)["error"]
    assert resolved(machine, DRAFT, "v1") == {"weights": ["model.safetensors"]}
    assert "has no revision 'v9'" in resolved(machine, DRAFT, "v9")["error"]
    file = write_llama_gguf(llama, tmp_path / "a.gguf").read_bytes()
    hub.add(GGUF, {}).commit({"a.gguf": file}, "v1")
    assert resolved(machine, f"{GGUF}/a.gguf", "v1") == {"weights": ["a.gguf"]}


def test_one_of_several_gguf_files_is_named(
    hub: StandInHub, machine: Machine, llama: Path, tmp_path: Path
) -> None:
    file = write_llama_gguf(llama, tmp_path / "a.gguf").read_bytes()
    hub.add(GGUF, {"a.gguf": file, "b.gguf": file})
    error = resolved(machine, GGUF)["error"]
    assert f"{GGUF} has 2 GGUF files; name one as OWNER/NAME/FILE: a.gguf" in error
    assert resolved(machine, f"{GGUF}/b.gguf") == {"weights": ["b.gguf"]}


def test_wrong_models_are_refused_before_their_weights_are_downloaded(
    hub: StandInHub, machine: Machine, llama: Path, tmp_path: Path
) -> None:
    assert "which sees pictures" in resolved(machine, NAME)["error"]
    small = write_llama(tmp_path / "small", seed=1, vocab_size=512)
    hub.add(DRAFT, content(small))
    assert "its vocabulary has 512 tokens" in resolved(machine, DRAFT)["error"]
    other = Path(shutil.copytree(llama, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"][0]["content"] = "<|another|>"
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    hub.add("someone/another", content(other))
    assert "its tokenizer is another" in resolved(machine, "someone/another")["error"]
    file = write_llama_gguf(llama, tmp_path / "a.gguf", architecture="qwen2")
    hub.add(GGUF, {"a.gguf": file.read_bytes()})
    assert "'qwen2', not 'llama'" in resolved(machine, GGUF)["error"]
    assert_no_weights_downloaded(hub)
