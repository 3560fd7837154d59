"""Graphs taken from where they are kept, or compiled and kept.

MAX's own cache also keeps compiled graphs, but needs each graph to be traced before it
finds it, and can't be handed to another machine.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from max.engine import CompiledModel, InferenceSession
from max.pipelines.lib import PipelineConfig, PipelineRuntimeConfig, ProfilingConfig

from mllama.compilation.lazy_graph import LazyGraph
from mllama.compilation.parallel import ParallelTask, start_in_parallel
from mllama.compilation.settings import CompiledSettings
from mllama.compilation.store import CompiledStore, GraphKey
from mllama.errors import CompiledModelError
from mllama.max_compat import patches
from mllama.max_compat.model import TopKSampler
from mllama.utils.progress import LOADING, stage

logger = logging.getLogger("mllama")

STAGES = {
    "mllama_image_encoder": "compiling the vision graph",
    "mllama_text_decoder": "compiling the text graph",
    TopKSampler.GRAPH_NAME: "compiling the sampler",
    "ragged_logprobs": "compiling the log probabilities",
}
"""A graph's name in MAX, and the stage of a start that it is to a user."""

_PATHS = re.compile(r"_kernel_library_paths = \[[^\]]*\]")
"""Where this installation lies, which is no part of what a graph computes."""


class GraphCompiler:
    """Stands before a session's compilation, and tells the progress of a start.

    Args:
        session: Every graph of the pipeline goes through it.
        pipeline: Says how graphs are compiled.
        settings: Where graphs are kept; None leaves that to MAX.
    """

    def __init__(
        self,
        session: InferenceSession,
        pipeline: PipelineConfig,
        settings: CompiledSettings | None,
    ) -> None:
        self._session = session
        self._settings = settings
        self._compile_settings = _compile_settings(pipeline.runtime, pipeline.profiling)
        self._sources: list[CompiledStore] = []
        self._cache: CompiledStore | None = None
        self._target: CompiledStore | None = None
        self._finished = False
        self._parallel: dict[GraphKey, subprocess.Popen[bytes]] = {}
        self._compile_reusing_mefs = session.compile_reusing_mefs
        self._init_all = session.init_all
        if settings is not None:
            if settings.saved is not None:
                self._sources.append(CompiledStore.open(settings.saved)[1])
            self._cache = _opened(settings.cache)
            self._sources.append(self._cache)
            if settings.save_to is not None:
                self._target = CompiledStore(settings.save_to)
        patches.replace_compilation(
            session, compile_graph=self._compile, init_all=self._init
        )

    def compile_in_parallel(
        self, graph: LazyGraph, task: Callable[[GraphKey, Path], ParallelTask]
    ) -> None:
        """Compiles a graph in another process, unless it is kept already.

        Args:
            graph: The graph, to be compiled for a CPU.
            task: Makes the process's task, given the graph's key and the directory
                that keeps it.
        """
        key = graph.key(self._compile_settings)
        if (
            self._cache is None
            or self._compile_settings != default_compile_settings()
            or any(store.find(key) is not None for store in self._sources)
        ):
            return
        process = start_in_parallel(task(key, self._cache.directory))
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
                self._keep(
                    key,
                    lambda part, file=file: shutil.copyfile(file, part),
                    is_cached=store is self._cache,
                )
                return self._session.compile(file)
        saved = self._settings.saved if self._settings else None
        if lazy.is_required and saved is not None:
            raise CompiledModelError(
                f"{saved} has no {key.name} for this start: an option of MAX's, such "
                "as the KV cache's page size, is another one"
            )
        stage(STAGES.get(key.name, f"compiling {key.name}"))
        compiled = self._compile_reusing_mefs(lazy.trace(), **options)
        self._keep(key, compiled.export_mef)
        return compiled

    def _init(self, *args: Any, **options: Any) -> Any:
        stage(LOADING)
        models = self._init_all(*args, **options)
        stage(None)
        return models

    def _keep(self, key: GraphKey, export: Any, *, is_cached: bool = False) -> None:
        if self._target is not None and not self._finished:
            self._target.add(key, export)
        if is_cached or self._cache is None or self._cache.find(key) is not None:
            return
        try:
            self._cache.add(key, export)
            if self._finished:
                self._write_cache_manifest()
        except OSError as error:
            logger.warning("the compiled graph can't be kept: %s", error)
            self._cache = None

    def finish(self) -> None:
        """Declares what was kept whole: the start needs no other graph.

        Raises:
            OSError: If a directory that was asked for can't be written.
        """
        self._finished = True
        if self._target is not None and self._settings is not None:
            self._target.write_manifest(self._settings.manifest)
            self._target.remove_unlisted()
            logger.info("the compiled model is in %s", self._target.directory)
        try:
            self._write_cache_manifest()
        except OSError as error:
            logger.warning("the compiled graphs can't be kept: %s", error)

    def _write_cache_manifest(self) -> None:
        if self._cache is not None and self._settings is not None:
            self._cache.write_manifest(self._settings.manifest)


def lazy_sampler() -> AbstractContextManager[None]:
    """Keeps MAX from tracing its sampler before it must be compiled.

    It holds for the pipeline that is made within the ``with`` block; its session must
    be a :class:`GraphCompiler`'s.
    """

    def lazy_trace(trace: Callable[..., Any]) -> Callable[..., LazyGraph]:
        def traced_later(sampler: Any, *input_types: Any, **options: Any) -> LazyGraph:
            described = {
                name: value
                for name, value in vars(sampler).items()
                if name in ("_sampling_config", "_device", "_unpadded_vocab_size")
            }
            return LazyGraph(
                TopKSampler.GRAPH_NAME,
                f"{described}\n{[str(kind) for kind in input_types]}",
                lambda: trace(sampler, *input_types, **options),
            )

        return traced_later

    return patches.replaced_sampler_trace(lazy_trace)


def default_compile_settings() -> str:
    """Settings of MAX's that change the code of a graph, as they are by default."""
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


def _opened(directory: Path) -> CompiledStore:
    """The cache's directory; what is unfinished or damaged in it is compiled anew."""
    try:
        return CompiledStore.open(directory)[1]
    except CompiledModelError:
        return CompiledStore(directory)


def _as_lazy(graph: Any) -> LazyGraph:
    """A graph that MAX has traced already."""
    return LazyGraph(graph.name, _PATHS.sub("", repr(graph)), lambda: graph)
