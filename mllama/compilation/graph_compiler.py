"""Loads compiled graphs from a store, or compiles and stores them.

MAX has a cache of compiled graphs too, but it has to trace a graph to look it up, and
its entries can't be moved to another machine.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from max.engine import CompiledModel, InferenceSession
from max.pipelines.lib import PipelineConfig, PipelineRuntimeConfig, ProfilingConfig

from mllama.compilation.background import (
    BACKGROUND_NICENESS,
    BackgroundCompilation,
)
from mllama.compilation.lazy_graph import LazyGraph
from mllama.compilation.parallel import start_in_parallel
from mllama.compilation.settings import CompiledSettings
from mllama.compilation.shipped import ShippedForm, shipped_forms
from mllama.compilation.store import CompiledStore, GraphKey
from mllama.errors import CompiledModelError
from mllama.kernels.dispatch import chosen_kernels
from mllama.max_compat import patches
from mllama.max_compat.model import TopKSampler
from mllama.utils.cpu import usable_cores
from mllama.utils.progress import LOADING, stage

logger = logging.getLogger("mllama")

STAGES = {
    "mllama_image_encoder": "compiling the vision graph",
    "mllama_text_decoder": "compiling the text graph",
    "mllama_text_queries": "compiling the graph for attention maps",
    "mllama_draft_decoder": "compiling the draft model's graph",
    TopKSampler.GRAPH_NAME: "compiling the sampler",
    "mllama_greedy_sampler": "compiling the greedy sampler",
}
"""The progress message for each graph, by the graph's name in MAX."""

_INSTALLATION_PATHS = re.compile(r"_kernel_library_paths = \[[^\]]*\]")
"""The part of a traced graph that depends on where this package is installed."""


class GraphCompiler:
    """Replaces the compilation of a MAX session, and reports the progress.

    A graph is looked up in the saved model, in the cache and among the graphs that
    ship, and compiled only if none of them has it.

    Args:
        session: The session that compiles all graphs of the pipeline.
        pipeline: MAX's configuration, whose settings affect the compiled code.
        settings: The directories of compiled graphs; None leaves caching to MAX.

    Attributes:
        kernels: The kernels of the graphs, see :class:`Manifest`.  They are not those
            of this CPU if graphs that ship are for any CPU.
    """

    def __init__(
        self,
        session: InferenceSession,
        pipeline: PipelineConfig,
        settings: CompiledSettings | None,
    ) -> None:
        self._session = session
        self._settings = settings
        self.kernels = settings.manifest.kernels if settings else chosen_kernels()
        self._compile_settings = _compile_settings(pipeline.runtime, pipeline.profiling)
        self._sources: list[CompiledStore] = []
        self._cache: CompiledStore | None = None
        self._target: CompiledStore | None = None
        self._finished = False
        self._parallel: dict[GraphKey, subprocess.Popen[bytes]] = {}
        self._shipped: list[ShippedForm] = []
        self._obstacles: list[str] = []
        self._borrowed: dict[GraphKey, LazyGraph] = {}
        self._compile_reusing_mefs = session.compile_reusing_mefs
        self._init_all = session.init_all
        if settings is not None:
            if settings.saved is not None:
                self._sources.append(CompiledStore.open(settings.saved)[1])
            self._cache = CompiledStore.open_or_create(settings.cache)
            self._sources.append(self._cache)
            if settings.save_to is not None:
                self._target = CompiledStore(settings.save_to)
            # A saved model is compiled for this CPU.
            elif self._compile_settings == default_compile_settings():
                self._shipped, self._obstacles = shipped_forms(settings.manifest)
        patches.replace_compilation(
            session, compile_graph=self._compile, init_all=self._init
        )

    def compile_in_parallel(self, graph: LazyGraph) -> None:
        """Compiles a graph in another process unless it is compiled already.

        Args:
            graph: The graph, which must have a task.
        """
        assert graph.task is not None
        key = graph.key(self._compile_settings)
        if (
            self._cache is None
            or usable_cores() < 2
            or self._compile_settings != default_compile_settings()
            or any(store.find(key) for store in self._sources)
            or any(form.find(key) for form in self._shipped)
        ):
            return
        process = start_in_parallel(graph.task(key, self._cache.directory))
        if process is not None:
            self._parallel[key] = process

    def _compile(self, model: Any, **options: Any) -> CompiledModel:
        lazy = model if isinstance(model, LazyGraph) else _as_lazy(model)
        key = lazy.key(self._compile_settings)
        if (process := self._parallel.pop(key, None)) is not None and self._cache:
            stage(STAGES[key.name])
            process.wait()
            self._cache.find_added(key)
        for store in self._sources:
            if (file := store.find(key)) is not None:
                self._store(
                    key,
                    lambda part, file=file: shutil.copyfile(file, part),
                    is_cached=store is self._cache,
                )
                return self._session.compile(file)
        for form in self._shipped:
            if (file := form.find(key)) is not None:
                self.kernels = form.manifest.kernels
                self._borrowed[key] = lazy
                return self._session.compile(file)
        saved = self._settings.saved if self._settings else None
        if lazy.is_required and saved is not None:
            raise CompiledModelError(
                f"{saved} has no {key.name} for these options: an option of MAX, "
                "such as the KV cache's page size, has another value; use the options "
                "that it was compiled with, or compile it again"
            )
        while self._obstacles:
            logger.info(
                "the graphs that ship can't be used here: %s", self._obstacles.pop()
            )
        stage(STAGES.get(key.name, f"compiling {key.name}"))
        compiled = self._compile_reusing_mefs(lazy.trace(), **options)
        self._store(key, compiled.export_mef)
        return compiled

    def _init(self, *args: Any, **options: Any) -> Any:
        stage(LOADING)
        models = self._init_all(*args, **options)
        stage(None)
        return models

    def _store(self, key: GraphKey, export: Any, *, is_cached: bool = False) -> None:
        if self._target is not None and not self._finished:
            self._target.add(key, export)
        if is_cached or self._cache is None or self._cache.find(key) is not None:
            return
        try:
            self._cache.add(key, export)
            if self._finished:
                self._write_cache_manifest()
        except OSError as error:
            logger.warning("the compiled graph can't be cached: %s", error)
            self._cache = None

    def finish(self) -> None:
        """Marks the stored graphs as complete once the model has all its graphs.

        Raises:
            OSError: If the directory to save to can't be written.
        """
        self._finished = True
        if self._target is not None and self._settings is not None:
            self._target.write_manifest(self._settings.manifest)
            self._target.remove_unlisted()
            logger.info("the compiled model is in %s", self._target.directory)
        try:
            self._write_cache_manifest()
        except OSError as error:
            logger.warning("the compiled graphs can't be cached: %s", error)
        if self._settings is not None and self._settings.compile_in_background:
            self._compile_in_background(self._settings)

    def _compile_in_background(self, settings: CompiledSettings) -> None:
        """Compiles graphs for this CPU if those in use are for any CPU.

        The next run finds them in the cache.
        """
        if self._cache is None or self.kernels == settings.manifest.kernels:
            return
        tasks = {
            key: graph.task(key, settings.cache)
            for key, graph in self._borrowed.items()
            if graph.task is not None
        }
        task = BackgroundCompilation(tasks, settings.manifest, settings.cache)
        if start_in_parallel(task, niceness=BACKGROUND_NICENESS) is not None:
            logger.info(
                "the graphs that ship are for any CPU; compiling faster ones for the "
                "next run in the background (--no-background-compilation: don't)"
            )

    def _write_cache_manifest(self) -> None:
        if self._cache and self._cache.is_used and self._settings:
            self._cache.write_manifest(self._settings.manifest)


def lazy_sampler() -> AbstractContextManager[None]:
    """Defers the tracing of MAX's sampler until it has to be compiled.

    This applies to pipelines that are created within the ``with`` block, whose session
    must belong to a :class:`GraphCompiler`.
    """

    def replaced(trace: Callable[..., Any]) -> Callable[..., LazyGraph]:
        def lazy_trace(sampler: Any, *input_types: Any, **options: Any) -> LazyGraph:
            settings = {
                name: value
                for name, value in vars(sampler).items()
                if name in ("_sampling_config", "_device", "_unpadded_vocab_size")
            }
            return LazyGraph(
                TopKSampler.GRAPH_NAME,
                f"{settings}\n{[str(kind) for kind in input_types]}",
                lambda: trace(sampler, *input_types, **options),
            )

        return lazy_trace

    return patches.replaced_sampler_trace(replaced)


def default_compile_settings() -> str:
    """Returns the default values of MAX's settings that affect the compiled code."""
    return _compile_settings(PipelineRuntimeConfig(), ProfilingConfig())


def _compile_settings(
    runtime: PipelineRuntimeConfig, profiling: ProfilingConfig
) -> str:
    debugging = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(("MODULAR_DEBUG", "MODULAR_MAX_DEBUG"))
    }
    return (
        f"{runtime.use_experimental_kernels} {runtime.use_vendor_blas} "
        f"{runtime.use_vendor_ccl} {runtime.disable_vendor_blas_fallback} "
        f"{profiling.gpu_profiling} {debugging}"
    )


def _as_lazy(graph: Any) -> LazyGraph:
    """Wraps a graph that MAX has already traced."""
    return LazyGraph(
        graph.name, _INSTALLATION_PATHS.sub("", repr(graph)), lambda: graph
    )
