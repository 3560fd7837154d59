"""Compiles the search's graphs on a machine without a GPU: `make gpu-probe-graphs`.

    python -m benchmarks.gpu_fault.compile_graphs
    python -m benchmarks.gpu_fault.compile_graphs --check
    python -m benchmarks.gpu_fault.compile_graphs --model 11b --output DIR

They have to be renewed when a source that graphs are built from has changed.  Graphs
that are up to date are kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from max.driver import CPU, Accelerator
from max.engine import InferenceSession
from max.graph import DeviceRef

from benchmarks.gpu_fault.graphs import (
    COMMITTED,
    GRAPHS,
    MODELS,
    arch_config,
    enable_checks,
    graph_key,
    lazy_graph,
    model_config,
    stale,
)
from benchmarks.gpu_fault.variants import Variant
from mllama.aot.target_graphs import make_devices_virtual
from mllama.aot.targets import CrossCompilation, Target, find_target
from mllama.compilation.graph_compiler import default_compile_settings
from mllama.compilation.host import CPU_TARGETS
from mllama.compilation.shipped import SUFFIX, pack, staleness
from mllama.compilation.store import CompiledStore
from mllama.errors import MllamaError
from mllama.utils.child_processes import restore_child_environment
from mllama.utils.cpu import assume_cpu_features
from mllama.weights.encodings import Encoding

TARGET = "cuda:sm_90"


def renew(directory: Path, model: str, target: Target, names: list[str]) -> None:
    """Compiles the graphs that a directory lacks, one after the other.

    Each takes minutes and is saved when it is there.

    Args:
        directory: The directory.
        model: One of :data:`MODELS`.
        target: The kind of device.
        names: Some of :data:`GRAPHS`; the others are kept if they are up to date.
    """
    encoding = (
        Encoding("float32", "cpu") if target.is_cpu else Encoding("bfloat16", "gpu")
    )
    compilation = CrossCompilation(model_config(model), target, encoding)
    ref = DeviceRef.CPU() if target.is_cpu else DeviceRef.GPU()
    config = arch_config(compilation.config, ref)
    if target.is_cpu:
        assume_cpu_features(CPU_TARGETS[target.architecture])
    manifest = compilation.manifest
    store = CompiledStore(directory)
    if staleness(directory) is None and CompiledStore.open(directory)[0] == manifest:
        store = CompiledStore.open(directory)[1]
    keys = {name: graph_key(config, name) for name in GRAPHS}
    kept = {found for key in keys.values() if (found := store.file_name(key))}
    for name in names:
        if store.file_name(keys[name]) in kept:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            file = _compiled_apart(compilation, name, Path(folder))
            directory.mkdir(parents=True, exist_ok=True)
            pack(Path(folder))
            packed = Path(folder, file + SUFFIX)
            (directory / packed.name).write_bytes(packed.read_bytes())
        kept.add(file)
        CompiledStore(directory, kept).write_manifest(manifest)
        print(
            f"{name}: {(directory / packed.name).stat().st_size / 1000:.0f} kB, "
            f"{time.perf_counter() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    for file in directory.glob(f"*{SUFFIX}"):
        if file.name.removesuffix(SUFFIX) not in kept:
            file.unlink()


def _compiled_apart(compilation: CrossCompilation, name: str, folder: Path) -> str:
    """Compiles a graph in a process of its own, whose memory is free afterwards."""
    restore_child_environment()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_compile, compilation, name, folder).result()


def _compile(compilation: CrossCompilation, name: str, folder: Path) -> str:
    """Compiles a graph into a folder and returns its file's name."""
    target = compilation.target
    if target.is_cpu:
        assume_cpu_features(CPU_TARGETS[target.architecture])
    make_devices_virtual(target, 1)
    ref = DeviceRef.CPU() if target.is_cpu else DeviceRef.GPU()
    lazy = lazy_graph(arch_config(compilation.config, ref), name)
    key = lazy.key(default_compile_settings())
    if name != "T7" and Variant(name).is_checked:
        enable_checks()
    session = InferenceSession(devices=[CPU() if target.is_cpu else Accelerator(0)])
    compiled = session.compile(lazy.trace())
    return CompiledStore(folder).add(key, compiled.export_mef).name


def main() -> None:
    """Renews the graphs, or exits with 1 if the present ones are stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="only say whether they are stale"
    )
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--only", default=",".join(GRAPHS), help="such as P0,P1,T7")
    parser.add_argument(
        "--output", type=Path, help="another directory than the committed one"
    )
    arguments = parser.parse_args()
    if arguments.check:
        if (reason := stale(arguments.output or COMMITTED)) is not None:
            print(f"the probe's graphs are stale: {reason}; `make gpu-probe-graphs`")
            sys.exit(1)
        return
    if arguments.output is None and (arguments.model, arguments.target) != (
        "demo",
        TARGET,
    ):
        parser.error("--output DIR is needed for another model or target")
    names = arguments.only.split(",")
    if unknown := [name for name in names if name not in GRAPHS]:
        parser.error(f"{unknown[0]} is none of {', '.join(GRAPHS)}")
    try:
        target = find_target(arguments.target)
        renew(arguments.output or COMMITTED, arguments.model, target, names)
    except MllamaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
