"""Models in Ollama's store that can't be served are refused in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllama.errors import MllamaError
from mllama.weights.ollama.store import find_blob
from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.ollama_writer import write_ollama_gguf
from tests.weights.ollama.store_writer import IMAGE, Store, refusal


def model_and(kind: str) -> Callable[[Store], None]:
    return lambda store: store.add(
        [store.layer("model", b"GGUF"), store.layer(kind, b"GGUF..")]
    )


def missing(store: Store) -> None:
    layer = store.layer("model", b"GGUF")
    store.blob(layer).unlink()
    store.add([layer])


def cut(store: Store) -> None:
    layer = store.layer("model", b"GGUF")
    store.blob(layer).write_bytes(b"GG")
    store.add([layer])


def manifest(content: str) -> Callable[[Store], None]:
    return lambda store: store.add([]).write_text(content) and None


def layers(*made: Any) -> Callable[[Store], None]:
    return lambda store: store.add(list(made)) and None


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (
            model_and("projector"),
            "is in the old form of two files; pull the",
        ),
        (model_and("adapter"), "has an adapter (sha256:"),
        (model_and("model"), "has 2 GGUF files of a model instead of one"),
        (layers(), "has 0 GGUF files"),
        (missing, "lacks its blob sha256:"),
        (cut, "has 2 bytes, but the manifest of vision:latest says 4"),
        (manifest("{"), "not a manifest of Ollama's"),
        (manifest("[]"), "not a manifest of Ollama's"),
        (manifest('{"layers": null}'), "not a manifest of Ollama's"),
        (manifest('{"layers": {"a": 1}}'), "not a manifest of Ollama's"),
        (manifest("[" * 100_000), "not a manifest of Ollama's"),
        (manifest('{"layers": []}' + " " * (1 << 20)), "not a manifest of Ollama's"),
        (layers({"mediaType": IMAGE + "model"}), "not a manifest of Ollama's"),
        (
            layers({"mediaType": "x", "digest": "sha256:../../x", "size": 1}),
            "not a manifest of Ollama's",
        ),
        (
            layers({"mediaType": "x", "digest": DIGEST, "size": "1"}),
            "not a manifest of Ollama's",
        ),
        (
            layers({"mediaType": "x", "digest": DIGEST, "size": True}),
            "not a manifest of Ollama's",
        ),
        (layers(1), "not a manifest of Ollama's"),
    ],
)
def test_models_that_can_not_be_served_are_refused(
    store: Store, build: Callable[[Store], None], complaint: str
) -> None:
    build(store)
    assert complaint in refusal()


def test_another_architecture_is_named(store: Store, tmp_path: Path) -> None:
    path = write_ollama_gguf(
        checkpoint(),
        tmp_path / "llama.gguf",
        change=lambda keys: keys.update({"general.architecture": "llama"}),
    )
    store.add([store.layer("model", path.read_bytes())])
    assert "architecture 'llama', not 'mllama'" in refusal()


@pytest.mark.parametrize("closed", ["manifests", "blob", "manifest"])
def test_unreadable_parts_of_a_store_are_named(
    store: Store, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """A user outside the group of Ollama's service has no access."""
    layer = store.layer("model", b"GGUF")
    path = store.add([layer])
    denied = PermissionError(13, "Permission denied")

    def deny(self: Path, *_: Any, **__: Any) -> Any:
        raise denied

    if closed == "blob":
        allowed = os.access
        monkeypatch.setattr(
            os, "access", lambda p, m: p != store.blob(layer) and allowed(p, m)
        )
        where = store.blob(layer)
    elif closed == "manifest":
        monkeypatch.setattr(Path, "open", deny)
        where = path
    else:
        monkeypatch.setattr(Path, "stat", deny)
        where = store.path / "manifests"
    with pytest.raises(MllamaError) as refused:
        find_blob("vision")
    monkeypatch.undo()
    assert str(refused.value) == (
        f"{where} can't be read: Permission denied; run as a user who may read "
        "Ollama's store"
    )
