"""Writes a store as Ollama lays it out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mllama.errors import MllamaError
from mllama.launch.resolve import resolve_model_files

IMAGE = "application/vnd.ollama.image."
Manifest = dict[str, Any]


class Store:
    """A store as Ollama lays it out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs").mkdir(parents=True)
        (path / "manifests").mkdir()

    def layer(self, kind: str, content: bytes, separator: str = "-") -> Manifest:
        """Adds a blob, and returns its layer for a manifest."""
        digits = hashlib.sha256(content).hexdigest()
        (self.path / "blobs" / f"sha256{separator}{digits}").write_bytes(content)
        return {
            "mediaType": IMAGE + kind,
            "digest": f"sha256:{digits}",
            "size": len(content),
        }

    def add(
        self, layers: Any, name: str = "registry.ollama.ai/library/vision/latest"
    ) -> Path:
        """Adds a manifest."""
        path = self.path / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self.layer("json", b"{}"),
            "layers": layers,
        }
        path.write_text(json.dumps(content))
        return path

    def blob(self, layer: Manifest) -> Path:
        return self.path / "blobs" / layer["digest"].replace(":", "-")


def refusal(name: str = "ollama:vision") -> str:
    """Returns the one-line error for a name."""
    with pytest.raises(MllamaError) as refused:
        resolve_model_files(name, device_type="cpu")
    assert "\n" not in str(refused.value)
    return str(refused.value)
