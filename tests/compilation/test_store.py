"""A directory of compiled graphs is whole, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllama.compilation.store import MANIFEST as MANIFEST_NAME
from mllama.compilation.store import CompiledStore, GraphKey, check_target
from mllama.errors import CompiledModelError
from tests.compilation.test_manifest import MANIFEST

KEY = GraphKey.of("text graph", "what it computes")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    store = CompiledStore(tmp_path / "saved")
    store.add(KEY, lambda part: part.write_bytes(b"compiled"))
    store.write_manifest(MANIFEST)
    return tmp_path / "saved"


def test_a_graph_is_found_by_what_it_computes(saved: Path) -> None:
    manifest, store = CompiledStore.open_verified(saved)
    found = store.find(KEY)
    assert manifest == MANIFEST
    assert found is not None
    assert found.read_bytes() == b"compiled"
    assert store.find(GraphKey.of("text graph", "something else")) is None
    assert store.find(GraphKey.of("other graph", "what it computes")) is None


@pytest.mark.parametrize("damage", [b"", b"compilee", b"compiled more"])
def test_a_damaged_graph_is_refused_by_its_name(saved: Path, damage: bytes) -> None:
    _, store = CompiledStore.open_verified(saved)
    (file,) = saved.glob("*.mef")
    file.write_bytes(damage)
    assert store.find(KEY) is None
    with pytest.raises(CompiledModelError, match=file.name):
        CompiledStore.open_verified(saved)


def test_a_missing_graph_is_refused_by_its_name(saved: Path) -> None:
    (file,) = saved.glob("*.mef")
    file.unlink()
    with pytest.raises(CompiledModelError, match=file.name):
        CompiledStore.open_verified(saved)


def test_a_directory_without_manifest_is_unfinished(saved: Path) -> None:
    (saved / MANIFEST_NAME).unlink()
    for directory in (saved, saved / "nowhere", next(saved.glob("*.mef"))):
        with pytest.raises(CompiledModelError, match="not finished"):
            CompiledStore.open_verified(directory)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        "[" * 100_000,
        '{"format": 1, "compiled_for": {}, "graphs": []}',
        "\0" * (1 << 21),
    ],
)
def test_a_manifest_of_another_form_is_refused(saved: Path, content: str) -> None:
    (saved / MANIFEST_NAME).write_text(content)
    with pytest.raises(CompiledModelError, match=MANIFEST_NAME) as refused:
        CompiledStore.open_verified(saved)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["../x.mef", "x.mef", 1, "/etc/passwd"])
def test_a_manifest_can_name_graphs_of_its_directory_only(
    saved: Path, name: object
) -> None:
    path = saved / MANIFEST_NAME
    content = json.loads(path.read_text())
    content["graphs"] = [name]
    path.write_text(json.dumps(content))
    with pytest.raises(CompiledModelError, match="names no graphs"):
        CompiledStore.open_verified(saved)


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    store = CompiledStore(tmp_path / "new")
    with pytest.raises(OSError, match="No space"):
        store.add(KEY, fail)
    assert list((tmp_path / "new").iterdir()) == []
    assert store.find(KEY) is None


def test_saving_again_replaces_what_was_there(saved: Path) -> None:
    check_target(saved)
    store = CompiledStore(saved)
    store.add(KEY, lambda part: part.write_bytes(b"newer"))
    # Until the manifest is written, the earlier model is whole.
    assert CompiledStore.open_verified(saved)[1].find(KEY) is not None
    store.write_manifest(MANIFEST)
    store.remove_unlisted()
    (file,) = saved.glob("*.mef")
    assert file.read_bytes() == b"newer"


def test_other_files_are_not_written_among(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CompiledModelError, match=r"thesis\.txt"):
        check_target(tmp_path)
    with pytest.raises(CompiledModelError, match="can't be written"):
        check_target(tmp_path / "thesis.txt" / "below")
