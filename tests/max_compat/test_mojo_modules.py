"""Whether the next import of MAX compiles is told without importing it."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from mllama.max_compat.mojo_modules import compiles_at_import


def test_the_first_import_compiles_and_later_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("max", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert not compiles_at_import()
    cache = tmp_path / "_kv_cache_ops" / "__mojocache__"
    cache.parent.mkdir()
    assert compiles_at_import()
    cache.mkdir()
    assert compiles_at_import()
    (cache / "kv_cache_ops.hash-0.so").touch()
    assert not compiles_at_import()


def test_the_installed_max_has_the_module() -> None:
    spec = importlib.util.find_spec("max")
    assert spec is not None
    assert any(
        (Path(location) / "_kv_cache_ops").is_dir()
        for location in spec.submodule_search_locations or ()
    )
