"""``mllama cache`` lists and removes the entries of this package, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mllama.cli.cache import cache
from mllama.compilation.store import CompiledStore
from mllama.utils.cache_dir import CACHE_VARIABLE, cache_directory
from tests.compilation.test_manifest import MANIFEST
from tests.compilation.test_store import KEY


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an entry of each kind, and files of the user."""
    root = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(root))
    store = CompiledStore(cache_directory("compiled") / MANIFEST.key())
    store.add(KEY, lambda part: part.write_bytes(b"c" * 2048))
    store.write_manifest(MANIFEST)
    package = cache_directory(f"mojo/{'d' * 16}")
    (package / f"mllama_attention_{'d' * 16}.mojoc").write_bytes(b"p" * 8192)
    (package / "sha256").write_text("0" * 64)
    (root / "mojo" / "mine").mkdir()
    (cache_directory("quantised") / f"{'a' * 32}-q4_k.gguf").write_bytes(b"q" * 4096)
    (cache_directory(f"gguf/{'b' * 32}") / "config.json").write_text("{}")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"m" * 9000)
    (cache_directory("gguf/links") / f"{'c' * 32}.gguf").symlink_to(model)
    (root / "gguf" / "mine.gguf").write_bytes(b"mine")
    return root


def run(*args: str) -> str:
    result = CliRunner().invoke(cache, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_each_entry_with_its_size(root: Path) -> None:
    output = run("list")
    assert str(root) in output
    assert MANIFEST.key() in output
    assert "float32, cpu, MAX 26.7.0" in output
    assert f"4.0 KiB  {'a' * 32}-q4_k.gguf" in output
    assert f"12.0 KiB  {'d' * 16}  attention" in output
    assert "mine" not in output
    assert "quantised" not in run("list", "compiled")


def test_list_marks_a_damaged_model(root: Path) -> None:
    next((root / "compiled").rglob("*.mef")).write_bytes(b"")
    assert "damaged" in run("list", "compiled")


def test_clear_empties_one_kind_or_all_and_spares_other_files(root: Path) -> None:
    assert "4.0 KiB" in run("clear", "quantised")
    assert not any((root / "quantised").iterdir())
    assert any((root / "compiled").iterdir())
    run("clear")
    assert not any((root / "compiled").iterdir())
    assert [path.name for path in (root / "gguf").iterdir()] == ["mine.gguf"]
    assert [path.name for path in (root / "mojo").iterdir()] == ["mine"]
    assert (root.parent / "model.gguf").stat().st_size == 9000
    assert "removed 0 bytes" in run("clear")


def test_an_absent_cache_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "absent"))
    assert "0 bytes" in run("list")
    run("clear")
    assert not (tmp_path / "absent").exists()
