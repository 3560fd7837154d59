"""MAX's module in Mojo is compiled when it is called, and not when MAX is imported."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from mllama.max_compat import patches
from mllama.max_compat.kv_cache_ops import FUNCTIONS, defer_kv_cache_ops


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delitem(sys.modules, patches.KV_CACHE_OPS)
    defer_kv_cache_ops()
    return sys.modules[patches.KV_CACHE_OPS]


def run(code: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return process.stdout


def test_importing_max_does_not_load_the_module() -> None:
    code = (
        "import sys, mllama, max.nn.kv_cache.cache_params as params; "
        "print(params.mha_decode_num_partitions.__module__); "
        "print('max._kv_cache_ops.kv_cache_ops' in sys.modules)"
    )
    assert run(code).split() == ["mllama.max_compat.kv_cache_ops", "False"]


def test_max_imports_no_other_function_of_the_module() -> None:
    code = (
        "import importlib.util, pathlib, re; "
        "root = pathlib.Path(importlib.util.find_spec('max').origin or "
        "importlib.util.find_spec('max').submodule_search_locations[0]); "
        "[print(f.name) for f in root.rglob('*.py') "
        "if '_kv_cache_ops' in f.read_text() and f.parent.name != '_kv_cache_ops']"
    )
    assert run(code).split() == ["cache_params.py"]
    from max.nn.kv_cache import cache_params

    for name in FUNCTIONS:
        assert callable(getattr(cache_params, name))


def test_a_call_loads_the_module_in_place_of_the_stand_in(
    stand_in: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ModuleType(patches.KV_CACHE_OPS)
    for name in FUNCTIONS:
        setattr(real, name, lambda *args, name=name, **options: (name, args, options))

    def import_module(name: str) -> ModuleType:
        assert name not in sys.modules
        sys.modules[name] = real
        return real

    monkeypatch.setattr("importlib.import_module", import_module)
    assert stand_in.mha_decode_num_partitions(1, device=2) == (
        "mha_decode_num_partitions",
        (1,),
        {"device": 2},
    )
    assert sys.modules[patches.KV_CACHE_OPS] is real


def test_a_module_that_is_imported_already_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = ModuleType(patches.KV_CACHE_OPS)
    monkeypatch.setitem(sys.modules, patches.KV_CACHE_OPS, real)
    defer_kv_cache_ops()
    assert sys.modules[patches.KV_CACHE_OPS] is real
