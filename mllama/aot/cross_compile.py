"""Compilation for a kind of GPU, on any machine.

The graphs are compiled, but not run.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mllama.aot.targets import CompiledGraph, Target
from mllama.compilation.host import gpu_name
from mllama.compilation.manifest import Manifest
from mllama.compilation.store import CompiledStore, check_target
from mllama.config import MllamaConfig
from mllama.config.sharding import check_shards
from mllama.errors import MllamaError
from mllama.launch.defaults import DEFAULT_CE_BATCH_SIZE
from mllama.utils.child_processes import restore_child_environment


def compile_for_target(
    config: MllamaConfig,
    target: Target,
    directory: Path,
    *,
    devices: int = 1,
    max_length: int | None = None,
    max_batch_size: int = 1,
    max_ce_batch_size: int = DEFAULT_CE_BATCH_SIZE,
) -> list[CompiledGraph]:
    """Compiles the vision and the text graph in bfloat16, in a separate process.

    Takes minutes, and needs neither a GPU nor weights.

    Args:
        config: The checkpoint's configuration.
        target: Kind of GPU to compile for.
        directory: Directory to save the compiled model and its manifest to; created if
            it is missing.
        devices: Number of GPUs that share the model.
        max_length: Longest sequence in tokens; None is the model's limit.
        max_batch_size: Requests processed concurrently, for the manifest.
        max_ce_batch_size: Requests whose prompts are prefilled in one step, for the
            manifest.

    Returns:
        The compiled graphs.

    Raises:
        MllamaError: If the devices can't share the model, the directory can't be used,
            or MAX can't compile the model.
    """
    check_shards(config, devices)
    check_target(directory)
    restore_child_environment()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        work = process.submit(_compile, config, target, devices, directory)
        try:
            graphs = work.result()
        except BrokenProcessPool as error:
            raise MllamaError(
                f"the compiler died for {target}; its messages are above, and if there "
                "are none it ran out of memory (sm_90 takes 11 GiB)"
            ) from error
    store = CompiledStore(directory, [graph.path.name for graph in graphs])
    store.write_manifest(
        Manifest.for_this_machine(
            config,
            encoding="bfloat16",
            formats={},
            max_length=max_length or config.text_config.max_position_embeddings,
            max_batch_size=max_batch_size,
            max_ce_batch_size=max_ce_batch_size,
            devices=(gpu_name(target.api, target.architecture),) * devices,
        ).for_gpu_host()
    )
    store.remove_unlisted()
    return graphs


def _compile(
    config: MllamaConfig,
    target: Target,
    devices: int,
    directory: Path,
) -> list[CompiledGraph]:
    """Compiles the graphs; runs in the separate process, which alone loads MAX."""
    from mllama.aot.gpu_target import compile_graphs

    return compile_graphs(config, target, devices, directory)
