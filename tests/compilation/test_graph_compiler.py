"""Graphs are loaded from the saved model or the cache, and compiled otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from max.dtype import DType
from max.graph import DeviceRef
from max.graph.quantization import QuantizationEncoding
from max.nn.transformer import ReturnLogits
from max.pipelines.lib import PipelineRuntimeConfig, ProfilingConfig

from mllama.compilation import graph_compiler
from mllama.compilation.graph_compiler import GraphCompiler
from mllama.compilation.lazy_graph import LazyGraph
from mllama.compilation.settings import CompiledSettings
from mllama.compilation.store import CompiledStore
from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.errors import CompiledModelError
from mllama.max_model.graphs import graph_fingerprints
from mllama.max_model.model_config import MllamaArchConfig
from tests.compilation.test_manifest import MANIFEST


class Session:
    """A stand-in for MAX's session that records which graphs it compiles."""

    def __init__(self) -> None:
        self.compiled: list[Any] = []

    def compile_reusing_mefs(self, graph: Any, **_: Any) -> Any:
        self.compiled.append(graph)
        return SimpleNamespace(
            export_mef=lambda path: Path(path).write_text(f"code of {graph}")
        )

    def compile(self, path: Any) -> Any:
        return Path(path).read_text()

    def init_all(self, compiled: Any, **_: Any) -> Any:
        return compiled


def pipeline(**runtime: Any) -> Any:
    return SimpleNamespace(
        runtime=PipelineRuntimeConfig(**runtime), profiling=ProfilingConfig()
    )


def graph(fingerprint: str = "of 2 layers", **more: Any) -> LazyGraph:
    return LazyGraph("text", fingerprint, lambda: f"graph {fingerprint}", **more)


def start(
    settings: CompiledSettings | None, *graphs: LazyGraph, **runtime: Any
) -> list[Any]:
    """Returns the graphs that a start compiles."""
    session: Any = Session()
    compiler = GraphCompiler(session, pipeline(**runtime), settings)
    for each in graphs:
        session.init_all(session.compile_reusing_mefs(each))
    compiler.finish()
    return session.compiled  # type: ignore[no-any-return]


@pytest.fixture
def settings(tmp_path: Path) -> CompiledSettings:
    return CompiledSettings(manifest=MANIFEST, cache=tmp_path / "cache")


def test_a_second_start_traces_and_compiles_nothing(settings: CompiledSettings) -> None:
    assert start(settings, graph()) == ["graph of 2 layers"]
    assert start(settings, graph()) == []
    assert start(settings, graph(), graph("of 3 layers")) == ["graph of 3 layers"]
    assert start(settings, graph("of 3 layers"), graph()) == []


def test_settings_that_affect_the_compiled_code_are_part_of_the_key(
    settings: CompiledSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(settings, graph())
    assert start(settings, graph(), use_experimental_kernels="true")
    monkeypatch.setenv("MODULAR_MAX_DEBUG_ASSERT_LEVEL", "all")
    assert start(settings, graph())


def test_a_start_from_a_saved_model_compiles_nothing(
    settings: CompiledSettings, tmp_path: Path
) -> None:
    saving = replace(settings, save_to=tmp_path / "saved")
    start(saving, graph(is_required=True), graph("sampler"))
    found, _ = CompiledStore.open_verified(tmp_path / "saved")
    assert found == MANIFEST
    loading = replace(settings, cache=tmp_path / "other", saved=tmp_path / "saved")
    assert start(loading, graph(is_required=True), graph("sampler")) == []


def test_saving_copies_graphs_from_the_cache(
    settings: CompiledSettings, tmp_path: Path
) -> None:
    start(settings, graph())
    assert start(replace(settings, save_to=tmp_path / "saved"), graph()) == []
    (file,) = (tmp_path / "saved").glob("*.mef")
    assert file.read_text() == "code of graph of 2 layers"


def test_a_saved_model_without_a_required_graph_is_refused(
    settings: CompiledSettings, tmp_path: Path
) -> None:
    start(replace(settings, save_to=tmp_path / "saved"), graph(is_required=True))
    loading = replace(settings, cache=tmp_path / "other", saved=tmp_path / "saved")
    with pytest.raises(CompiledModelError, match="has no text for this start"):
        start(loading, graph("of other pages", is_required=True))
    # MAX's small graphs depend on options that are not in the manifest.
    assert start(loading, graph("another sampler")) == ["graph another sampler"]


def test_an_interrupted_start_leaves_the_saved_model_incomplete(
    settings: CompiledSettings, tmp_path: Path
) -> None:
    session: Any = Session()
    GraphCompiler(session, pipeline(), replace(settings, save_to=tmp_path / "saved"))
    session.compile_reusing_mefs(graph())
    with pytest.raises(CompiledModelError, match="not finished"):
        CompiledStore.open_verified(tmp_path / "saved")


def test_without_settings_max_compiles_every_graph() -> None:
    assert start(None, graph()) == ["graph of 2 layers"]


def test_progress_names_each_graph_that_is_compiled(
    settings: CompiledSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Any] = []
    monkeypatch.setattr(graph_compiler, "stage", stages.append)
    vision = LazyGraph("mllama_image_encoder", "", lambda: None)  # type: ignore[arg-type, return-value]
    start(settings, vision, graph())
    assert stages == [
        "compiling the vision graph",
        graph_compiler.LOADING,
        None,
        "compiling text",
        graph_compiler.LOADING,
        None,
    ]
    stages.clear()
    start(settings, vision, graph())
    assert "compiling the vision graph" not in stages


def test_fingerprints_differ_with_everything_that_graphs_depend_on() -> None:
    config = MllamaConfig.from_path(MODEL_PATH)
    cpu = DeviceRef.CPU()

    def arch(dtype: DType = DType.float32, devices: int = 1, length: int = 99) -> Any:
        return MllamaArchConfig.for_graphs(config, dtype, [cpu] * devices, length)

    def texts(config: Any, **encodings: QuantizationEncoding) -> tuple[str, ...]:
        return tuple(graph_fingerprints(config, encodings).values())

    plain = texts(arch())
    assert texts(arch(length=100)) == plain
    echoing = replace(arch(), return_logits=ReturnLogits.ALL)
    deeper = replace(config.text_config, num_hidden_layers=9)
    others = [
        texts(arch(DType.bfloat16)),
        texts(arch(devices=2)),
        texts(arch(), lm_head=QuantizationEncoding.Q6_K),
        texts(arch(), lm_head=QuantizationEncoding.Q4_K),
        texts(echoing),
        texts(replace(arch(), model=replace(config, text_config=deeper))),
        texts(replace(arch(), int8_vision=True)),
    ]
    assert len({plain, *others}) == 1 + len(others)
