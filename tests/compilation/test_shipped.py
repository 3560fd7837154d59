"""Graphs that ship are used where they run, and never where they don't."""

from __future__ import annotations

import logging
import lzma
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mllama.compilation import shipped
from mllama.compilation.manifest import Manifest
from mllama.compilation.shipped import SUFFIX, ShippedForm, pack, shipped_forms
from mllama.compilation.store import CompiledStore, GraphKey
from tests.compilation.test_manifest import MANIFEST

KEY = GraphKey.of("text", "what it computes")
CODE = b"code" * 1000

REQUESTED = replace(MANIFEST, kernels="avx512", cpu=("x86_64", "avx2", "avx512f"))
FOR_AVX2 = replace(REQUESTED, kernels="avx2", cpu=("x86_64", "avx2"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which forms are looked for."""
    monkeypatch.setattr(shipped, "GRAPHS_PATH", tmp_path / "forms")
    monkeypatch.setattr(shipped, "GRAPHS_PACKAGE", "mllama_graphs_of_no_test")
    return tmp_path / "forms"


def ship(root: Path, name: str, manifest: Manifest, code: bytes = CODE) -> Path:
    store = CompiledStore(root / name)
    store.add(KEY, lambda part: _write(part, code))
    store.write_manifest(manifest)
    pack(root / name)
    return root / name


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def packed_graph(directory: Path) -> Path:
    (file,) = directory.glob(f"*.mef{SUFFIX}")
    return file


def test_a_graph_is_unpacked_into_the_cache_once(root: Path, cache: Path) -> None:
    directory = ship(root, "a", FOR_AVX2)
    assert not list(directory.glob("*.mef"))
    assert packed_graph(directory).stat().st_size < len(CODE)
    found = ShippedForm(directory).find(KEY)
    assert found is not None
    assert found.read_bytes() == CODE
    assert found.is_relative_to(cache)
    # The cache's entry is complete: other commands list it, and it needs no package.
    manifest, store = CompiledStore.open_verified(found.parent)
    assert manifest == FOR_AVX2
    assert store.find(KEY) == found
    packed_graph(directory).unlink()
    assert ShippedForm(directory).find(KEY) == found


def test_a_graph_that_does_not_ship_is_not_found(root: Path) -> None:
    form = ShippedForm(ship(root, "a", FOR_AVX2))
    assert form.find(GraphKey.of("text", "something else")) is None


def test_a_damaged_unpacked_graph_is_replaced(root: Path) -> None:
    directory = ship(root, "a", FOR_AVX2)
    found = ShippedForm(directory).find(KEY)
    assert found is not None
    found.write_bytes(b"damaged")
    again = ShippedForm(directory).find(KEY)
    assert again is not None
    assert again.read_bytes() == CODE


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"no xz file",
        lambda content: lzma.compress(b"another graph"),
    ],
)
def test_a_damaged_file_is_reported_and_not_used(
    root: Path, caplog: pytest.LogCaptureFixture, damage: object, cache: Path
) -> None:
    file = packed_graph(ship(root, "a", FOR_AVX2))
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING, "mllama"):
        assert ShippedForm(root / "a").find(KEY) is None
    (record,) = caplog.records
    assert str(file) in record.getMessage()
    assert "is not used" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not list(cache.rglob("*.mef"))


def test_a_file_that_unpacks_to_more_than_any_graph_is_not_used(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ship(root, "a", FOR_AVX2)
    monkeypatch.setattr(shipped, "_MAX_GRAPH_BYTES", 100)
    assert ShippedForm(root / "a").find(KEY) is None
    assert "too large" in caplog.text


def test_without_a_writable_cache_the_graph_is_unpacked_elsewhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "file" / "below"))
    form = ShippedForm(ship(root, "a", FOR_AVX2))
    found = form.find(KEY)
    assert found is not None
    assert found.read_bytes() == CODE
    assert form.find(KEY) == found
    del form
    assert not found.exists()


def test_the_fastest_form_that_runs_comes_first(root: Path) -> None:
    more = replace(REQUESTED, cpu=("x86_64", "avx2", "avx512f"))
    ship(root, "a", FOR_AVX2)
    ship(root, "b", replace(REQUESTED, cpu=("x86_64", "avx2")))
    ship(root, "c", more)
    forms, obstacles = shipped_forms(REQUESTED)
    assert [form.manifest for form in forms] == [
        more,
        replace(REQUESTED, cpu=("x86_64", "avx2")),
        FOR_AVX2,
    ]
    assert obstacles == []
    (only,), _ = shipped_forms(FOR_AVX2)
    assert only.manifest == FOR_AVX2


@pytest.mark.parametrize("field", ["sources", "max", "mllama", "cpu"])
def test_a_form_of_another_version_or_cpu_is_not_used_and_the_reason_is_given(
    root: Path, field: str
) -> None:
    value = ("x86_64", "another") if field == "cpu" else "another"
    ship(root, "a", replace(FOR_AVX2, **{field: value}))
    forms, (obstacle,) = shipped_forms(REQUESTED)
    assert forms == []
    assert str(root / "a") in obstacle
    assert "another" in obstacle


@pytest.mark.parametrize("field", ["config", "encoding", "formats"])
def test_a_form_of_another_model_is_passed_over(root: Path, field: str) -> None:
    ship(root, "a", replace(FOR_AVX2, **{field: "another"}))
    assert shipped_forms(REQUESTED) == ([], [])


@pytest.mark.parametrize("content", ["", "{}", '{"format": 99}', None])
def test_a_form_without_a_readable_manifest_is_not_used(
    root: Path, content: str | None
) -> None:
    manifest = ship(root, "a", FOR_AVX2) / "manifest.json"
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(content)
    forms, (obstacle,) = shipped_forms(REQUESTED)
    assert forms == []
    assert str(root / "a") in obstacle
    assert "\n" not in obstacle


def test_forms_of_the_companion_package_are_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "companion_of_a_test"
    shutil.copytree(ship(root, "a", FOR_AVX2), package / "a")
    shutil.rmtree(root)
    (package / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.setattr(shipped, "GRAPHS_PACKAGE", "companion_of_a_test")
    (form,), _ = shipped_forms(REQUESTED)
    assert form.find(KEY) is not None
    # Looking for forms must not run the package's code.
    assert "companion_of_a_test" not in sys.modules
