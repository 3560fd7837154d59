"""The search's graphs: what they are, and where they are compiled already.

Those of the demo model for ``cuda:sm_90`` are committed; ``compile_graphs`` renews
them.
"""

from __future__ import annotations

import hashlib
import lzma
import tempfile
from dataclasses import replace
from pathlib import Path

from max.driver import Device
from max.engine import CompiledModel, InferenceSession
from max.graph import DeviceRef

from benchmarks.gpu_fault import selection
from benchmarks.gpu_fault.variants import Variant, build
from mllama.compilation.graph_compiler import default_compile_settings
from mllama.compilation.host import gpu_name
from mllama.compilation.lazy_graph import LazyGraph, LazyGraphSpec
from mllama.compilation.manifest import Manifest
from mllama.compilation.shipped import SUFFIX, staleness
from mllama.compilation.store import CompiledStore, GraphKey
from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.errors import CompiledModelError
from mllama.max_model.graphs import IMAGE_ENCODER, graph_fingerprints, name_weights
from mllama.max_model.model_config import MllamaArchConfig

COMMITTED = Path(__file__).parent / "compiled" / "bfloat16-sm_90"
"""The directory of the demo model's graphs."""

GRAPHS = (*(variant.value for variant in Variant), "T7")
"""The names of the graphs: P0 to P4 are the vision graph's variants."""

MODELS = ("demo", "11b")

_CONFIG_11B = {"model_type": "mllama", "text_config": {}, "vision_config": {}}
"""All fields have the published values."""


def model_config(model: str) -> MllamaConfig:
    """Returns the configuration of one of :data:`MODELS`."""
    if model == "demo":
        return MllamaConfig.from_path(MODEL_PATH)
    return MllamaConfig.from_dict(_CONFIG_11B)


def arch_config(model: MllamaConfig, device: DeviceRef) -> MllamaArchConfig:
    """Returns the configuration of the vision graph: bfloat16 on a GPU."""
    encoding = "float32" if device.is_cpu() else "bfloat16"
    return MllamaArchConfig.for_graphs(model, encoding, [device])


def lazy_graph(config: MllamaArchConfig, name: str) -> LazyGraph:
    """Returns one of :data:`GRAPHS`, not yet traced.

    P0 equals the graph that the package itself uses.
    """
    device = config.devices[0]
    if name == "T7":
        return LazyGraph(
            selection.NAME,
            f"{device} {_digest('selection.py')}",
            lambda: selection.trace(device),
        )
    variant = Variant(name)
    network = build(config, variant)
    name_weights(network)
    fingerprint = graph_fingerprints(config, {})[IMAGE_ENCODER]
    title = IMAGE_ENCODER
    if variant is not Variant.AS_IS:
        title += f"_{name.lower()}"
        fingerprint += f" {_digest('variants.py')}"
    return LazyGraphSpec(
        network, title, network.input_types(), fingerprint=fingerprint
    ).trace()


def graph_key(config: MllamaArchConfig, name: str) -> GraphKey:
    """Returns the key of one of :data:`GRAPHS`."""
    return lazy_graph(config, name).key(default_compile_settings())


def _digest(source: str) -> str:
    """Returns a hash of a file of this folder, which changes a graph."""
    content = Path(__file__).with_name(source).read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def enable_checks() -> None:
    """Makes sessions of this process compile, and run, MAX's checks.

    These are its assertions and its check of reads from memory that nothing has
    written, which prints what it finds.  ``MODULAR_DEBUG`` would change the keys of all
    graphs.
    """
    debug = InferenceSession.debug
    debug.assert_level = "all"
    debug.uninitialized_read_check = True
    debug.uninitialized_read_mode = "report"


class ProbeGraphs:
    """Compiled graphs from a directory.

    Args:
        directory: The directory.
        compiles_missing: Whether graphs that it lacks, or that can't be used here, are
            compiled here, which takes minutes each.
    """

    def __init__(self, directory: Path, *, compiles_missing: bool) -> None:
        self.directory = directory
        self.compiles_missing = compiles_missing

    def check(self, config: MllamaConfig, device: Device) -> str | None:
        """Returns what the reader should know about the graphs, or None.

        Raises:
            CompiledModelError: If they can't be used here.
        """
        manifest, _ = CompiledStore.open(self.directory)
        wanted = _manifest_here(config, device)
        # Graphs of older sources run too, and show what they do.
        same = replace(manifest, mllama=wanted.mllama, sources=wanted.sources)
        if mismatches := same.mismatches(wanted):
            raise CompiledModelError(
                f"{self.directory} can't be used here: {'; '.join(mismatches)}"
            )
        return staleness(self.directory)

    def compiled(
        self, session: InferenceSession, config: MllamaArchConfig, name: str
    ) -> CompiledModel:
        """Returns one of :data:`GRAPHS` for a session.

        Raises:
            CompiledModelError: If it can't be used and must not be compiled.
        """
        lazy = lazy_graph(config, name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.check(config.model, session.devices[0])
                file = unpacked(self.directory, graph_key(config, name), Path(folder))
            except CompiledModelError as error:
                if self.compiles_missing:
                    return session.compile(lazy.trace())
                raise CompiledModelError(
                    f"{error}; compile it elsewhere with python -m "
                    "benchmarks.gpu_fault.graphs, or here with --compile"
                ) from None
            return session.compile(file)


def unpacked(directory: Path, key: GraphKey, folder: Path) -> Path:
    """Unpacks a graph into a folder and returns its file.

    Raises:
        CompiledModelError: If the directory lacks it, or if it is damaged.
    """
    name = CompiledStore.open(directory)[1].file_name(key)
    if name is None:
        raise CompiledModelError(f"{directory} has no {key.name} of these sources")
    packed = directory / f"{name}{SUFFIX}"
    (folder / name).write_bytes(lzma.decompress(packed.read_bytes()))
    file = CompiledStore(folder, [name]).find(key)
    if file is None:
        raise CompiledModelError(f"{packed} is damaged")
    return file


def _manifest_here(config: MllamaConfig, device: Device) -> Manifest:
    name = "cpu"
    if not device.is_host:
        name = gpu_name(device.api, device.architecture_name)
    return Manifest.for_this_machine(
        config,
        encoding="float32" if device.is_host else "bfloat16",
        formats={},
        devices=(name,),
    )


def stale(directory: Path = COMMITTED) -> str | None:
    """Returns why the demo model's graphs have to be renewed, or None."""
    if (reason := staleness(directory)) is not None:
        return reason
    config = arch_config(model_config("demo"), DeviceRef.GPU())
    store = CompiledStore.open(directory)[1]
    missing = [
        name for name in GRAPHS if store.file_name(graph_key(config, name)) is None
    ]
    return f"{', '.join(missing)} missing or of other sources" if missing else None
