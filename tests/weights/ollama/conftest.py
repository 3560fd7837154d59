from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.ollama_writer import write_ollama_gguf
from tests.weights.ollama.store_writer import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path / "models")
    monkeypatch.setenv("OLLAMA_MODELS", str(made.path))
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ollama") / "model.gguf"
    return write_ollama_gguf(checkpoint(), path).read_bytes()
