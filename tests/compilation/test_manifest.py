"""A manifest matches one start only, and lists the mismatches with any other."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from mllama.compilation import host
from mllama.compilation.manifest import Manifest, config_hash
from mllama.compilation.settings import CompiledSettings
from mllama.compilation.store import CompiledStore
from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.errors import CompiledModelError

CONFIG = MllamaConfig.from_path(MODEL_PATH)
MANIFEST = Manifest.for_this_machine(
    CONFIG,
    encoding="float32",
    formats={},
    devices=("cpu",),
)
FIELDS = [field.name for field in fields(Manifest)]


def changed_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return (*value, "another")
    return f"{value}x"


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("saved_is_changed", [True, False])
def test_a_saved_model_is_refused_if_one_field_differs(
    tmp_path: Any, name: str, saved_is_changed: bool
) -> None:
    changed = replace(MANIFEST, **{name: changed_value(getattr(MANIFEST, name))})
    saved, requested = (changed, MANIFEST) if saved_is_changed else (MANIFEST, changed)
    store = CompiledStore(tmp_path)
    store.write_manifest(saved)
    CompiledSettings.create(saved, saved=tmp_path)
    if name == "cpu" and not saved_is_changed:
        # A CPU with more features runs them.
        CompiledSettings.create(requested, saved=tmp_path)
        return
    with pytest.raises(CompiledModelError) as refused:
        CompiledSettings.create(requested, saved=tmp_path)
    message = str(refused.value)
    assert str(tmp_path) in message
    assert "\n" not in message
    for manifest in (saved, requested):
        value = getattr(manifest, name)
        if name == "cpu":
            assert "this machine lacks another" in message
        else:
            assert (value[-1] if isinstance(value, tuple) else str(value)) in message


def test_graphs_for_gpus_run_on_hosts_with_at_least_their_cpu_features() -> None:
    here = replace(MANIFEST, devices=("cuda:sm_90",), cpu=(*host.gpu_host()[1], "amx"))
    saved = here.for_gpu_host()
    assert saved.mismatches(here) == []
    lacking = replace(here, cpu=tuple(set(here.cpu) - {"fma"}))
    (line,) = saved.mismatches(lacking)
    assert "this machine lacks fma" in line


@pytest.mark.parametrize(
    ("saved", "chosen", "runs"),
    [
        ("avx2", "avx512", True),
        ("avx2", "avxvnni", True),
        ("avxvnni", "avxvnni", True),
        ("avxvnni", "avx512", True),
        ("avxvnni", "avx2", False),
        ("avxvnni", "max", False),
        ("avx512", "avxvnni", False),
        ("avx512", "avx2", False),
        ("avx2", "avx2", True),
        ("avx2", "max", False),
        ("max", "avx512", False),
    ],
)
def test_a_start_runs_kernels_up_to_those_that_it_chooses(
    saved: str, chosen: str, runs: bool
) -> None:
    mismatches = replace(MANIFEST, kernels=saved).mismatches(
        replace(MANIFEST, kernels=chosen)
    )
    assert (not mismatches) == runs
    if not runs:
        assert mismatches == [f"kernels {saved} (requested: {chosen})"]


def test_a_manifest_is_read_as_it_was_written() -> None:
    values = json.loads(json.dumps(MANIFEST.to_dict()))
    assert Manifest.from_dict(values) == MANIFEST


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", 4096),
        ("sources", True),
        ("devices", "cpu"),
        ("cpu", [1]),
        ("encoding", None),
        ("extra", 1),
    ],
)
def test_a_manifest_with_a_wrong_type_or_an_unknown_field_is_refused(
    name: str, value: Any
) -> None:
    with pytest.raises(CompiledModelError, match=name) as refused:
        Manifest.from_dict(MANIFEST.to_dict() | {name: value})
    assert "\n" not in str(refused.value)


def test_a_manifest_without_a_field_is_refused() -> None:
    values = MANIFEST.to_dict()
    del values["cpu"]
    with pytest.raises(CompiledModelError, match="cpu is missing"):
        Manifest.from_dict(values)


def test_the_cache_key_covers_every_field() -> None:
    for name in FIELDS:
        changed = replace(MANIFEST, **{name: changed_value(getattr(MANIFEST, name))})
        assert changed.key() != MANIFEST.key(), name


def test_only_models_of_the_same_shape_share_a_config_hash() -> None:
    text = CONFIG.text_config
    fine_tune = replace(
        CONFIG, dtype="bfloat16", text_config=replace(text, eos_token_id=(7,))
    )
    deeper = replace(
        CONFIG, text_config=replace(text, num_hidden_layers=text.num_hidden_layers + 1)
    )
    assert config_hash(fine_tune) == config_hash(CONFIG)
    assert config_hash(deeper) != config_hash(CONFIG)
