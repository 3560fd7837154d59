"""Compilation of both graphs for devices that this machine may lack.

It makes MAX's devices virtual for the rest of the process, so it needs a separate
process.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path

from max.driver import (
    CPU,
    Accelerator,
    set_virtual_cpu_target,
    set_virtual_device_api,
    set_virtual_device_count,
    set_virtual_device_target_arch,
)
from max.engine import InferenceSession
from max.graph import DeviceRef
from max.graph.quantization import QuantizationEncoding

from mllama.aot.targets import CompiledGraph, CrossCompilation, Target
from mllama.compilation.graph_compiler import default_compile_settings
from mllama.compilation.host import gpu_host
from mllama.compilation.lazy_graph import LazyGraph, LazyGraphSpec
from mllama.compilation.store import CompiledStore
from mllama.errors import MllamaError
from mllama.max_model.graphs import (
    NETWORKS,
    graph_fingerprints,
    name_weights,
)
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.query_graph import lazy_query_graph, text_queries
from mllama.utils.progress import StartupProgress, stage


def compile_graphs(
    compilation: CrossCompilation, directory: Path
) -> list[CompiledGraph]:
    """Compiles the vision and the text graph, and that for attention maps if it is
    wanted, and saves them.

    Args:
        compilation: What is compiled, and for what; weights are not needed.
        directory: Directory to save the graphs to, under the names by which they are
            looked up.

    Returns:
        The compiled graphs.

    Raises:
        MllamaError: If the devices can't share the model, or MAX can't compile it.
    """
    # Python's own handler would wait until the compilation ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # If memory runs out, Linux should kill this process rather than another.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    target = compilation.target
    make_devices_virtual(target, compilation.devices)
    store = CompiledStore(directory)
    kind = CPU if target.is_cpu else Accelerator
    session = InferenceSession(
        devices=[kind(index) for index in range(compilation.devices)]
    )
    graphs = []
    with StartupProgress():
        for lazy in planned_graphs(compilation):
            stage(f"{lazy.name} for {target}")
            started = time.perf_counter()
            try:
                compiled = session.compile(lazy.trace())
                path = store.add(
                    lazy.key(default_compile_settings()), compiled.export_mef
                )
            except RuntimeError as error:
                raise MllamaError(
                    f"MAX can't compile {lazy.name} for {target}: {_cause(error)}"
                ) from error
            seconds = time.perf_counter() - started
            graphs.append(CompiledGraph(lazy.name, path, seconds))
    return graphs


def make_devices_virtual(target: Target, devices: int) -> None:
    """Makes MAX compile for a CPU and a number of GPUs that this machine may lack."""
    if target.is_cpu:
        set_virtual_cpu_target(target.architecture)
        return
    set_virtual_cpu_target(gpu_host()[0])
    set_virtual_device_api(target.api)
    set_virtual_device_target_arch(target.architecture)
    set_virtual_device_count(devices)


def planned_graphs(compilation: CrossCompilation) -> list[LazyGraph]:
    """Returns the vision and the text graph, equal to those that the model looks up.

    The graph for attention maps follows if it is to be compiled.
    """
    ref = DeviceRef.CPU if compilation.target.is_cpu else DeviceRef.GPU
    encoding = compilation.encoding
    config = MllamaArchConfig.for_graphs(
        compilation.config,
        encoding.name,
        [ref(index) for index in range(compilation.devices)],
        int8_vision=encoding.int8_vision,
        image_cache_encoding=encoding.image_cache,
        kv_cache_encoding=encoding.kv_cache,
    )
    encodings = {
        name: QuantizationEncoding[kind.name]
        for name, kind in compilation.formats.items()
    }
    fingerprints = graph_fingerprints(config, encodings)
    graphs = []
    for name, build in NETWORKS.items():
        network = build(config, encodings)
        name_weights(network)
        spec = LazyGraphSpec(
            network, name, network.input_types(), fingerprint=fingerprints[name]
        )
        graphs.append(spec.trace())
    if compilation.attention:
        queries = text_queries(config, encodings)
        name_weights(queries)
        graphs.append(lazy_query_graph(config, encodings, queries).trace())
    return graphs


def _cause(error: RuntimeError) -> str:
    """Returns the line of the compiler's long message that names the cause."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return next((line for line in lines if "constraint failed" in line), lines[0])
