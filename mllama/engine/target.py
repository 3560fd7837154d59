"""Graphs for a kind of GPU, on any machine.

What comes out has been compiled, not run.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from mllama.child_environment import restore_child_environment
from mllama.compiled.host import gpu_name
from mllama.compiled.manifest import Manifest
from mllama.compiled.store import CompiledStore, check_target
from mllama.config import MllamaConfig
from mllama.config.shards import check_shards
from mllama.engine.limits import DEFAULT_CE_BATCH_SIZE
from mllama.errors import MllamaError

# fmt: off
ARCHITECTURES = {
    "cuda": (
        "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_100a",
        "sm_103", "sm_103a", "sm_120", "sm_120a", "sm_121", "sm_121a",
    ),
    "hip": (
        "gfx942", "gfx90a", "gfx950", "gfx1100", "gfx1101", "gfx1102", "gfx1103",
        "gfx1150", "gfx1151", "gfx1200", "gfx1201",
    ),
}
# fmt: on
"""GPUs with bfloat16 that MAX's compiler names, by interface.  The first of each is
what MAX takes when none is named."""


@dataclass(frozen=True)
class Target:
    """A kind of GPU."""

    api: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.api}:{self.architecture}"


@dataclass(frozen=True)
class CompiledGraph:
    """A graph that was compiled, and where it was saved."""

    name: str
    path: Path
    seconds: float


def find_target(name: str) -> Target:
    """The target that a name such as "cuda" or "hip:gfx942" stands for.

    Raises:
        MllamaError: If MAX knows no such target.
    """
    api, _, architecture = name.partition(":")
    known = ARCHITECTURES.get(api)
    if known is None:
        raise MllamaError(
            f"{name!r} is no target: use "
            + " or ".join(f"{api}:{names[0]}" for api, names in ARCHITECTURES.items())
        )
    architecture = architecture or known[0]
    if architecture not in known:
        raise MllamaError(
            f"{architecture!r} is no {api} target in bfloat16; known are "
            + ", ".join(known)
        )
    return Target(api, architecture)


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
    """Compiles the vision and the text graph in bfloat16, in a process of its own.

    Takes minutes, and needs neither a GPU nor weights.

    Args:
        config: The checkpoint's.
        target: The kind of GPU.
        directory: Where the compiled model is saved, with its manifest; made if it
            isn't there.
        devices: How many GPUs share the model.
        max_length: Longest sequence, in tokens; None is the model's own limit.
        max_batch_size: Requests worked on together, for the manifest.
        max_ce_batch_size: Prompts read in one step, likewise.

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
                f"the compiler broke off for {target}; what it said stands above, and "
                "if it said nothing it lacked memory (sm_90 takes 11 GiB)"
            ) from error
    store = CompiledStore(directory, [graph.path.name for graph in graphs])
    store.write_manifest(
        Manifest.of_this_machine(
            config,
            encoding="bfloat16",
            formats={},
            max_length=max_length or config.text_config.max_position_embeddings,
            max_batch_size=max_batch_size,
            max_ce_batch_size=max_ce_batch_size,
            devices=(gpu_name(target.api, target.architecture),) * devices,
        ).for_host_of_gpus()
    )
    store.remove_others()
    return graphs


def _compile(
    config: MllamaConfig,
    target: Target,
    devices: int,
    directory: Path,
) -> list[CompiledGraph]:
    """What the process does; MAX is loaded there alone."""
    from mllama.engine.target_graphs import compile_graphs

    return compile_graphs(config, target, devices, directory)
