"""Files with the same content are recognized without reading them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama.hub.content_key import content_key
from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import resolve_model_files
from tests.hub.conftest import DEMO, NAME, Machine
from tests.hub.stand_in import StandInHub


def quantized(model: str) -> ModelFiles:
    files = resolve_model_files(model, encoding="q6_k", device_type="cpu")
    return files.ensure_quantized(quiet=True)


def test_the_quantized_file_of_a_snapshot_is_found_again(
    hub: StandInHub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forced download or a commit with the same weights quantizes nothing again."""
    monkeypatch.setenv("MLLAMA_CACHE", str(machine.home / "mllama"))
    first = machine.download()
    q6 = quantized(first.model)
    written = q6.weight_path[0].stat().st_mtime_ns
    machine.download(options={"force_download": True})
    hub.repositories[NAME].commit(DEMO | {"new.txt": b"new"})
    for result in (first, machine.download()):
        again = quantized(result.model)
        assert again.weight_path == q6.weight_path
    assert q6.weight_path[0].stat().st_mtime_ns == written


def test_files_outside_the_cache_are_known_by_path_and_time(tmp_path: Path) -> None:
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
