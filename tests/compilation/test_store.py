"""A directory of compiled graphs is complete, or an error names what is wrong."""

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


def test_a_graph_is_found_by_its_key(saved: Path) -> None:
    manifest, store = CompiledStore.open_verified(saved)
    found = store.find(KEY)
    assert manifest == MANIFEST
    assert found is not None
    assert found.read_bytes() == b"compiled"
    assert store.find(GraphKey.of("text graph", "something else")) is None
    assert store.find(GraphKey.of("other graph", "what it computes")) is None


@pytest.mark.parametrize("damage", [b"", b"compilee", b"compiled more"])
def test_a_damaged_graph_is_refused_with_its_name(saved: Path, damage: bytes) -> None:
    _, store = CompiledStore.open_verified(saved)
    (file,) = saved.glob("*.mef")
    file.write_bytes(damage)
    assert store.find(KEY) is None
    with pytest.raises(CompiledModelError, match=file.name):
        CompiledStore.open_verified(saved)


def test_a_missing_graph_is_refused_with_its_name(saved: Path) -> None:
    (file,) = saved.glob("*.mef")
    file.unlink()
    with pytest.raises(CompiledModelError, match=file.name):
        CompiledStore.open_verified(saved)


def test_a_directory_without_a_manifest_is_incomplete(saved: Path) -> None:
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
def test_a_malformed_manifest_is_refused_in_one_line(saved: Path, content: str) -> None:
    (saved / MANIFEST_NAME).write_text(content)
    with pytest.raises(CompiledModelError, match=MANIFEST_NAME) as refused:
        CompiledStore.open_verified(saved)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x.mef", "'../x.mef' is not the name of a compiled graph's file"),
        ("x.mef", "'x.mef' is not the name"),
        (1, r"graphs\[0\] must be a valid string, not 1"),
        ("/etc/passwd", "'/etc/passwd' is not the name"),
    ],
)
def test_a_manifest_lists_only_graphs_of_its_own_directory(
    saved: Path, name: object, message: str
) -> None:
    path = saved / MANIFEST_NAME
    content = json.loads(path.read_text())
    content["graphs"] = [name]
    path.write_text(json.dumps(content))
    with pytest.raises(CompiledModelError, match=message):
        CompiledStore.open_verified(saved)


def test_a_failed_export_leaves_no_file_behind(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    store = CompiledStore(tmp_path / "new")
    with pytest.raises(OSError, match="No space"):
        store.add(KEY, fail)
    assert list((tmp_path / "new").iterdir()) == []
    assert store.find(KEY) is None


def test_saving_again_replaces_the_earlier_graphs(saved: Path) -> None:
    check_target(saved)
    store = CompiledStore(saved)
    store.add(KEY, lambda part: part.write_bytes(b"newer"))
    # Until the manifest is written, the earlier model stays complete.
    assert CompiledStore.open_verified(saved)[1].find(KEY) is not None
    store.write_manifest(MANIFEST)
    store.remove_unlisted()
    (file,) = saved.glob("*.mef")
    assert file.read_bytes() == b"newer"


def test_graphs_of_other_programs_are_left_alone(saved: Path) -> None:
    (saved / "mine.mef").write_bytes(b"of the user")
    with pytest.raises(CompiledModelError, match=r"other files \(mine\.mef\)"):
        check_target(saved)
    CompiledStore(saved).remove_unlisted()
    assert [file.name for file in saved.glob("*.mef")] == ["mine.mef"]


def test_graphs_are_not_saved_into_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CompiledModelError, match=r"thesis\.txt"):
        check_target(tmp_path)
    with pytest.raises(CompiledModelError, match="can't be written"):
        check_target(tmp_path / "thesis.txt" / "below")
