"""Compilation for another kind of device, on any machine.

The graphs are compiled, but not run.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mllama.aot.targets import CompiledGraph, CrossCompilation
from mllama.compilation.host import CPU_TARGETS
from mllama.compilation.manifest import Manifest
from mllama.compilation.store import CompiledStore, check_target
from mllama.config.sharding import check_shards
from mllama.errors import MllamaError
from mllama.utils.child_processes import restore_child_environment
from mllama.utils.cpu import assume_cpu_features


def compile_for_target(
    compilation: CrossCompilation, directory: Path
) -> list[CompiledGraph]:
    """Compiles the vision and the text graph in a separate process.

    Takes minutes, and needs neither the device nor weights.

    Args:
        compilation: What is compiled, and for what.
        directory: Directory to save the compiled model and its manifest to; created if
            it is missing.

    Returns:
        The compiled graphs.

    Raises:
        MllamaError: If the devices can't share the model, the directory can't be used,
            or MAX can't compile the model.
    """
    check_shards(compilation.config, compilation.devices)
    check_target(directory)
    restore_child_environment()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        work = process.submit(_compile, compilation, directory)
        try:
            graphs, manifest = work.result()
        except BrokenProcessPool as error:
            raise MllamaError(
                f"the compiler died for {compilation.target}; its messages are above, "
                "and if there are none it ran out of memory (sm_90 takes 11 GiB)"
            ) from error
    store = CompiledStore(directory, [graph.path.name for graph in graphs])
    store.write_manifest(manifest)
    store.remove_unlisted()
    return graphs


def _compile(
    compilation: CrossCompilation, directory: Path
) -> tuple[list[CompiledGraph], Manifest]:
    """Compiles the graphs in the process that alone loads MAX."""
    if compilation.target.is_cpu:
        assume_cpu_features(CPU_TARGETS[compilation.target.architecture])
    from mllama.aot.target_graphs import compile_graphs

    return compile_graphs(compilation, directory), compilation.manifest
