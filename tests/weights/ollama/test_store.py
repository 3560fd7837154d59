"""Models in Ollama's store are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama.launch.resolve import resolve_model_files
from mllama.weights.ollama import store as ollama_store
from mllama.weights.ollama.store import find_blob, parse_name
from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.store_writer import Store, refusal


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
def test_short_names_are_completed(
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
def test_invalid_names_never_become_paths(store: Store, name: str) -> None:
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


def test_a_blob_needs_no_suffix(store: Store, content: bytes) -> None:
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


def test_a_link_to_another_file_is_replaced(
    store: Store, content: bytes, tmp_path: Path
) -> None:
    blob = store.blob(store.layer("model", content))
    (link,) = resolve_model_files(str(blob), device_type="cpu").weight_path
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    assert resolve_model_files(str(blob), device_type="cpu").weight_path == (link,)
    assert link.resolve() == blob


def test_without_the_variable_both_usual_stores_are_searched(
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


def test_a_missing_model_is_reported_with_the_models_that_exist(store: Store) -> None:
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
