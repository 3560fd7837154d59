"""Graphs are loaded from the saved model or the cache, and compiled otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from max.graph import DeviceRef
from max.graph.quantization import QuantizationEncoding
from max.pipelines.lib import PipelineRuntimeConfig, ProfilingConfig

from mllama.compilation import graph_compiler, shipped
from mllama.compilation.background import BackgroundCompilation
from mllama.compilation.graph_compiler import GraphCompiler
from mllama.compilation.lazy_graph import LazyGraph
from mllama.compilation.settings import CompiledSettings
from mllama.compilation.store import CompiledStore, GraphKey
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


def test_a_saved_model_may_have_graphs_that_nothing_needs(
    settings: CompiledSettings, tmp_path: Path
) -> None:
    """As those of earlier versions do, which compiled a sampler for a CPU."""
    saving = replace(settings, save_to=tmp_path / "saved")
    start(saving, graph(is_required=True), graph("sampler"))
    loading = replace(settings, cache=tmp_path / "other", saved=tmp_path / "saved")
    assert start(loading, graph(is_required=True)) == []


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
    with pytest.raises(CompiledModelError, match="has no text for these options"):
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


@dataclass(frozen=True)
class Task:
    """Stands for the compilation of a graph in another process."""

    key: GraphKey
    directory: Path

    def run(self) -> None: ...


@pytest.fixture
def for_any_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompiledSettings:
    """Settings of a CPU with AVX-512, where the text graph ships for AVX2."""
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "unpacked"))
    monkeypatch.setattr(shipped, "GRAPHS_PATH", tmp_path / "forms")
    here = replace(MANIFEST, kernels="avx512", cpu=(*MANIFEST.cpu, "avx512f"))
    store = CompiledStore(tmp_path / "forms" / "avx2")
    key = graph().key(graph_compiler.default_compile_settings())
    store.add(key, lambda part: Path(part).write_text("shipped code") and None)
    store.write_manifest(replace(MANIFEST, kernels="avx2"))
    shipped.pack(store.directory)
    return CompiledSettings(
        manifest=here, cache=tmp_path / "cache", compile_in_background=True
    )


@pytest.fixture
def background(monkeypatch: pytest.MonkeyPatch) -> list[BackgroundCompilation]:
    """The tasks that are started in the background."""
    tasks: list[BackgroundCompilation] = []

    def start(task: Any, *, niceness: int) -> object:
        assert niceness == 19
        tasks.append(task)
        return object()

    monkeypatch.setattr(graph_compiler, "start_in_parallel", start)
    return tasks


def test_a_graph_that_ships_is_not_compiled(
    for_any_cpu: CompiledSettings, background: list[BackgroundCompilation]
) -> None:
    session: Any = Session()
    compiler = GraphCompiler(session, pipeline(), for_any_cpu)
    assert session.compile_reusing_mefs(graph(task=Task)) == "shipped code"
    assert session.compiled == []
    assert compiler.kernels == "avx2"
    compiler.finish()
    # The directory of this CPU's graphs must not look complete.
    assert not for_any_cpu.cache.exists()
    (task,) = background
    assert [key.name for key in task.tasks] == ["text"]
    assert task.manifest == for_any_cpu.manifest
    assert task.directory == for_any_cpu.cache


@pytest.mark.parametrize(
    "changes",
    [
        {"compile_in_background": False},
        {"manifest": replace(MANIFEST, kernels="avx2")},
    ],
)
def test_graphs_are_compiled_in_the_background_only_where_it_helps(
    for_any_cpu: CompiledSettings,
    background: list[BackgroundCompilation],
    changes: dict[str, Any],
) -> None:
    assert start(replace(for_any_cpu, **changes), graph(task=Task)) == []
    assert background == []


def test_this_cpus_graphs_in_the_cache_come_before_those_that_ship(
    for_any_cpu: CompiledSettings,
    background: list[BackgroundCompilation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = graph().key(graph_compiler.default_compile_settings())
    store = CompiledStore(for_any_cpu.cache)
    store.add(key, lambda part: Path(part).write_text("faster code") and None)
    store.write_manifest(for_any_cpu.manifest)
    session: Any = Session()
    compiler = GraphCompiler(session, pipeline(), for_any_cpu)
    assert session.compile_reusing_mefs(graph(task=Task)) == "faster code"
    compiler.finish()
    assert compiler.kernels == "avx512"
    assert background == []


def test_a_model_to_save_is_compiled_for_this_cpu(
    for_any_cpu: CompiledSettings, tmp_path: Path
) -> None:
    saving = replace(for_any_cpu, save_to=tmp_path / "saved")
    assert start(saving, graph(task=Task)) == ["graph of 2 layers"]


def test_other_settings_of_the_compiler_use_no_graph_that_ships(
    for_any_cpu: CompiledSettings,
) -> None:
    assert start(for_any_cpu, graph(), use_experimental_kernels="true")


def test_why_graphs_that_ship_are_not_used_is_logged_once(
    for_any_cpu: CompiledSettings, caplog: pytest.LogCaptureFixture
) -> None:
    lacking = replace(for_any_cpu.manifest, cpu=("x86_64",))
    settings = replace(for_any_cpu, manifest=lacking, compile_in_background=False)
    with caplog.at_level("INFO", "mllama"):
        assert start(settings, graph(), graph("of 3 layers"))
    (message,) = [r.getMessage() for r in caplog.records if "ship" in r.getMessage()]
    assert "this machine lacks" in message


def test_a_cache_that_cannot_be_written_is_reported(
    settings: CompiledSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    unwritable = replace(settings, cache=tmp_path / "file" / "below")
    assert start(unwritable, graph()) == ["graph of 2 layers"]
    assert "can't be cached" in caplog.text


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

    def arch(encoding: Any = "float32", devices: int = 1) -> Any:
        return MllamaArchConfig.for_graphs(config, encoding, [cpu] * devices)

    def texts(config: Any, **encodings: QuantizationEncoding) -> tuple[str, ...]:
        return tuple(graph_fingerprints(config, encodings).values())

    plain = texts(arch())
    assert texts(replace(arch(), max_seq_len=100)) == plain
    deeper = replace(config.text_config, num_hidden_layers=9)
    others = [
        texts(arch("bfloat16")),
        texts(arch(devices=2)),
        texts(arch(), lm_head=QuantizationEncoding.Q6_K),
        texts(arch(), lm_head=QuantizationEncoding.Q4_K),
        texts(replace(arch(), model=replace(config, text_config=deeper))),
        texts(replace(arch(), int8_vision=True)),
    ]
    assert len({plain, *others}) == 1 + len(others)
