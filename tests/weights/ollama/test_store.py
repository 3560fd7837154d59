"""Models of Ollama's store are found by name, and refused in one line otherwise."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllama.errors import MllamaError
from mllama.launch.resolve import resolve_model_files
from mllama.weights.ollama import store as ollama_store
from mllama.weights.ollama.store import find_blob, parse_name
from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.ollama_writer import write_ollama_gguf

IMAGE = "application/vnd.ollama.image."
Manifest = dict[str, Any]


class Store:
    """A store as Ollama lays it out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs").mkdir(parents=True)
        (path / "manifests").mkdir()

    def layer(self, kind: str, content: bytes, separator: str = "-") -> Manifest:
        """Adds a blob; what a manifest says of it."""
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


def refusal(name: str = "ollama:vision") -> str:
    """One line that refuses a name, wherever it is noticed."""
    with pytest.raises(MllamaError) as refused:
        resolve_model_files(name, device_type="cpu")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "parts", "short"),
    [
        ("a", ("registry.ollama.ai", "library", "a", "latest"), "a:latest"),
        ("A.b-c_1:11b", ("registry.ollama.ai", "library", "A.b-c_1", "11b"), None),
        ("me/a:x", ("registry.ollama.ai", "me", "a", "x"), "me/a:x"),
        ("library/a", ("registry.ollama.ai", "library", "a", "latest"), "a:latest"),
        ("hf.co/me/a:Q4_K_M", ("hf.co", "me", "a", "Q4_K_M"), "hf.co/me/a:Q4_K_M"),
        ("h:5000/me/a", ("h:5000", "me", "a", "latest"), "h:5000/me/a:latest"),
    ],
)
def test_names_are_completed(
    name: str, parts: tuple[str, ...], short: str | None
) -> None:
    found = parse_name(name)
    assert found.parts == parts
    assert str(found) == (short or name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":x",
        "a:",
        "a/",
        "/a",
        "..",
        "../a",
        "a/../b",
        "../../../etc/passwd",
        "a:../../b",
        "a:b:c",
        "a b",
        "a\n",
        "a\0",
        "h/n/m/x:t",
        "na.me/a:x:y",
        "n.s/a",
        "https://h/n/a",
        "a@sha256:00",
        "é",
        "x" * 81,
    ],
)
def test_what_is_no_name_never_becomes_a_path(store: Store, name: str) -> None:
    assert "is not a name of a model in Ollama's store" in refusal(f"ollama:{name}")


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("vision", "registry.ollama.ai/library/vision/latest"),
        ("vision:latest", "registry.ollama.ai/library/vision/latest"),
        ("Vision:LATEST", "registry.ollama.ai/library/vision/latest"),
        ("me/vision:11b", "registry.ollama.ai/me/vision/11b"),
        ("h.co/me/vision:11b", "h.co/me/vision/11b"),
    ],
)
def test_a_model_is_served_in_place(
    store: Store, content: bytes, tmp_path: Path, asked: str, kept: str
) -> None:
    layer = store.layer("model", content)
    store.add([layer, store.layer("template", b"{{ .Prompt }}")], kept)
    files = resolve_model_files(f"ollama:{asked}", device_type="cpu")
    (weights,) = files.weight_path
    assert weights.suffix == ".gguf"
    assert weights.resolve() == store.blob(layer)
    assert files.encoding.name == "float32"
    assert Path(files.model, "config.json").is_file()
    # Nothing as large as the weights was written.
    written = [f for f in (tmp_path / "cache").rglob("*") if not f.is_symlink()]
    assert max(f.stat().st_size for f in written) < len(content) // 4
    again = resolve_model_files(f"ollama:{asked}", device_type="cpu")
    assert again == files


def test_a_blob_needs_no_ending(store: Store, content: bytes) -> None:
    blob = store.blob(store.layer("model", content))
    by_name = resolve_model_files(str(blob), device_type="cpu")
    assert by_name.weight_path[0].resolve() == blob
    beside = resolve_model_files(
        str(checkpoint()), weight_path=[blob], device_type="cpu"
    )
    assert beside.weight_path == by_name.weight_path
    assert beside.encoding.name == "float32"


def test_a_blob_in_a_closed_directory_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.blob(store.layer("model", b"GGUF"))

    def deny(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", deny)
    assert refusal(str(blob)) == f"{blob} can't be read: Permission denied"


def test_an_early_blob_has_a_colon_in_its_name(store: Store, content: bytes) -> None:
    layer = store.layer("model", content, separator=":")
    store.add([layer])
    assert find_blob("vision").name == layer["digest"]


def test_a_link_follows_its_blob(store: Store, content: bytes, tmp_path: Path) -> None:
    """A link of the cache that names another file is made anew."""
    blob = store.blob(store.layer("model", content))
    (link,) = resolve_model_files(str(blob), device_type="cpu").weight_path
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    assert resolve_model_files(str(blob), device_type="cpu").weight_path == (link,)
    assert link.resolve() == blob


def test_without_the_variable_both_usual_places_are_looked_at(
    store: Store, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_MODELS")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    service = tmp_path / "service"
    monkeypatch.setattr(ollama_store, "SERVICE_STORE", service)
    message = refusal()
    assert f"{tmp_path}/home/.ollama/models or {service}" in message
    assert "OLLAMA_MODELS" in message
    of_service = Store(service)
    layer = of_service.layer("model", content)
    of_service.add([layer])
    assert find_blob("vision") == of_service.blob(layer)
    of_user = Store(tmp_path / "home" / ".ollama" / "models")
    assert find_blob("vision") == of_service.blob(layer)
    of_user.add([of_user.layer("model", content)])
    assert find_blob("vision") == of_user.blob(layer)


def test_a_model_that_is_not_there_is_told_with_those_that_are(store: Store) -> None:
    assert "it has no model; pull it" in refusal("ollama:other")
    store.add([])
    store.add([], "registry.ollama.ai/me/b/11b")
    store.add([], "hf.co/me/c/Q4_0")
    message = refusal("ollama:other")
    assert "has no model other:latest" in message
    assert "it has hf.co/me/c:Q4_0, me/b:11b, vision:latest; pull it" in message
    for index in range(9):
        store.add([], f"registry.ollama.ai/library/m{index}/latest")
    assert "and 4 more; pull it" in refusal("ollama:other")


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
        (layers(1), "not a manifest of Ollama's"),
    ],
)
def test_what_can_not_be_served_is_named(
    store: Store, build: Callable[[Store], None], complaint: str
) -> None:
    build(store)
    assert complaint in refusal()


def test_another_model_is_named(store: Store, tmp_path: Path) -> None:
    path = write_ollama_gguf(
        checkpoint(),
        tmp_path / "llama.gguf",
        change=lambda keys: keys.update({"general.architecture": "llama"}),
    )
    store.add([store.layer("model", path.read_bytes())])
    assert "architecture 'llama', not 'mllama'" in refusal()


@pytest.mark.parametrize("closed", ["manifests", "blob", "manifest"])
def test_what_may_not_be_read_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """As for a user who is not in the group of Ollama's service."""
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
