"""The committed graphs of the search, and the figures of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from max.graph import DeviceRef

from benchmarks.gpu_fault.comparison import compare
from benchmarks.gpu_fault.graphs import (
    COMMITTED,
    GRAPHS,
    arch_config,
    graph_key,
    lazy_graph,
    model_config,
    stale,
    unpacked,
)
from benchmarks.gpu_fault.vision_side import RandomTensors
from mllama.compilation.graph_compiler import default_compile_settings
from mllama.compilation.host import CPU_TARGETS, versions
from mllama.compilation.store import CompiledStore, GraphKey
from mllama.errors import CompiledModelError
from mllama.max_model.graphs import IMAGE_ENCODER
from mllama.max_model.weight_adapters import image_encoder_weights


def test_the_committed_graphs_are_for_hopper_gpus() -> None:
    manifest, store = CompiledStore.open(COMMITTED)
    assert manifest.devices == ("cuda:sm_90",)
    assert manifest.encoding == "bfloat16"
    assert manifest.cpu == CPU_TARGETS["x86-64-v3"]
    assert store.is_used
    assert sum(file.stat().st_size for file in COMMITTED.iterdir()) < 4_000_000


def test_each_committed_graph_can_be_unpacked(tmp_path: Path) -> None:
    packed = sorted(COMMITTED.glob("*.xz"))
    assert packed
    for file in packed:
        name, digest, _ = file.name.removesuffix(".mef.xz").rsplit("-", 2)
        assert unpacked(COMMITTED, GraphKey(name, digest), tmp_path).stat().st_size


def test_graphs_that_are_missing_are_stale(tmp_path: Path) -> None:
    assert "has no compiled model" in str(stale(tmp_path))
    manifest, _ = CompiledStore.open(COMMITTED)
    store = CompiledStore(tmp_path)
    store.write_manifest(replace(manifest, **versions()))
    assert stale(tmp_path) == f"{', '.join(GRAPHS)} missing or of other sources"
    config = arch_config(model_config("demo"), DeviceRef.GPU())
    with pytest.raises(CompiledModelError, match=f"has no {IMAGE_ENCODER}_p1"):
        unpacked(tmp_path, graph_key(config, "P1"), tmp_path)


def test_p0_is_the_graph_that_the_package_uses() -> None:
    from mllama.aot.target_graphs import planned_graphs
    from mllama.aot.targets import CrossCompilation, find_target
    from mllama.weights.encodings import Encoding

    model = model_config("demo")
    compilation = CrossCompilation(
        model, find_target("cuda:sm_90"), Encoding("bfloat16", "gpu")
    )
    vision, _ = planned_graphs(compilation)
    p0 = lazy_graph(arch_config(model, DeviceRef.GPU()), "P0")
    settings = default_compile_settings()
    assert p0.key(settings) == vision.key(settings)


def test_the_graphs_have_keys_of_their_own() -> None:
    config = arch_config(model_config("demo"), DeviceRef.GPU())
    assert len({graph_key(config, name) for name in GRAPHS}) == len(GRAPHS)


def test_random_weights_fit_11b() -> None:
    model = model_config("11b")
    assert model.vision_config.hidden_size == 1280
    assert len(model.text_config.cross_attention_layers) == 8
    tensors = RandomTensors(model)
    assert tensors["vision_model.layernorm_pre.weight"].to_buffer().shape == (1280,)
    names = ["vision_model.class_embedding", "cross_attn.7.k_norm.weight"]
    config = arch_config(model, DeviceRef.GPU())
    weights = image_encoder_weights(tensors, model, names, config.dtype)
    assert [weights[name].dtype for name in names] == [config.dtype] * 2


def rows(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (20, 3, 8)).astype(np.float32)


def test_equal_tensors() -> None:
    comparison = compare(rows(), rows())
    assert comparison.is_bit_equal
    assert comparison.first_index is None
    assert str(comparison) == "equal"
    rounded = compare(rows() * np.float32(1.004), rows())
    assert rounded.is_equal
    assert not rounded.is_bit_equal
    assert str(rounded) == "equal but for rounding (0.004 of the spread)"


def test_figures_of_tensors_that_differ() -> None:
    actual = rows()
    actual[4, 1, 2:] = 1000
    actual[9, 0, 0] = np.nan
    comparison = compare(actual, rows())
    assert not comparison.is_equal
    assert comparison.first_index == [4, 1, 2]
    assert (comparison.differing_rows, comparison.rows) == (2, 20)
    assert (comparison.first_row, comparison.last_row) == (4, 9)
    assert comparison.largest == 1000
    assert comparison.not_finite == 1
    assert "2 of 20 rows, from 4 to 9" in str(comparison)
    assert "1 values not finite" in str(comparison)


@pytest.mark.parametrize(
    ("count", "pattern"), [(20, "all 20 rows, they are"), (6, "the first 6 of 20 rows")]
)
def test_where_values_of_another_tensor_are(count: int, pattern: str) -> None:
    actual, other = rows(), rows(1)
    actual[:count] = other[:count]
    comparison = compare(actual, rows(), {"zeros": other * 0, "the last run's": other})
    assert comparison.equals == "the last run's"
    assert pattern in str(comparison)


def test_a_few_wrong_values_are_not_rounding() -> None:
    actual = rows()
    actual[3] += 1
    comparison = compare(actual, rows())
    assert comparison.difference < 0.2
    assert not comparison.is_equal


def test_rounding_elsewhere_does_not_hide_which_rows_are_wrong() -> None:
    actual = rows() * np.float32(1.004)
    actual[:4] = 0
    comparison = compare(actual, rows(), {"zeros": rows() * 0})
    assert (comparison.differing_rows, comparison.rows_not_bit_equal) == (4, 20)
    assert comparison.equals == "zeros"


def test_integers_are_compared_too() -> None:
    table = np.arange(12, dtype=np.uint32).reshape(3, 4)
    changed = table.copy()
    changed[0, 1] = 7
    assert compare(table, table).is_equal
    assert compare(changed, table).first_index == [0, 1]
