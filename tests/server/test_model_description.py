"""Clients are told what is served, from its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama.launch.resolve import resolve_model_files
from mllama.server.model_description import describe_model
from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.ollama_writer import write_ollama_gguf
from tests.weights.ollama.store_writer import Store


def test_a_model_of_ollamas_store_has_the_stores_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "models")
    content = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf").read_bytes()
    layers = [
        store.layer("model", content),
        store.layer("params", b'{"temperature": 0.7}'),
    ]
    store.add(layers)
    files = resolve_model_files("ollama:vision", device_type="cpu")
    described = describe_model(files, "ollama:vision")
    assert described.stored is not None
    assert described.digest == described.stored.digest
    assert described.sampling_defaults == {"temperature": 0.7, "top_p": 0.9}
    assert (described.file_format, described.size) == ("gguf", len(content))
    assert described.parameter_count > 0
    # Other changes of the manifest make it another version of the model.
    store.add(layers[:1])
    assert describe_model(files, "ollama:vision").digest != described.digest


def test_other_files_have_another_digest(tmp_path: Path) -> None:
    path = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf")
    files = resolve_model_files(str(path), device_type="cpu")
    first = describe_model(files, str(path))
    assert first.stored is None
    assert first.sampling_defaults == {}
    assert describe_model(files, str(path)).digest == first.digest
    path.touch()
    assert describe_model(files, str(path)).digest != first.digest
