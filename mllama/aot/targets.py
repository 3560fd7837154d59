"""The kinds of device that graphs can be compiled for, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType

from mllama.compilation.host import CPU_TARGETS, gpu_name
from mllama.compilation.manifest import Manifest
from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.weights.encodings import Encoding
from mllama.weights.quantization_plan import quantization_plan

# fmt: off
ARCHITECTURES = {
    "cpu": tuple(CPU_TARGETS),
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
"""Architectures by API: CPUs that the custom ops support, and GPUs with bfloat16 that
MAX's compiler knows.

The first of each API is its default.
"""


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        api: ``cpu``, ``cuda`` or ``hip``.
        architecture: Name of the architecture, such as ``x86-64-v3`` or ``sm_90``.
    """

    api: str
    architecture: str

    @property
    def is_cpu(self) -> bool:
        """Returns True if the device is a CPU."""
        return self.api == "cpu"

    def __str__(self) -> str:
        return f"{self.api}:{self.architecture}"


@dataclass(frozen=True)
class CrossCompilation:
    """What to compile, and for which devices.

    Attributes:
        config: The checkpoint's configuration.
        target: Kind of device to compile for.
        encoding: The encoding of the weights.  GGUF blocks are in the formats that
            ``mllama quantize`` gives them.
        devices: Number of devices that share the model.
        attention: Whether the graph for attention maps is compiled too.
    """

    config: MllamaConfig
    target: Target
    encoding: Encoding
    devices: int = 1
    attention: bool = False

    @property
    def formats(self) -> dict[str, GGMLQuantizationType]:
        """Returns the format of each tensor in GGUF blocks, by canonical name."""
        return quantization_plan(self.config, self.encoding.name)

    @property
    def manifest(self) -> Manifest:
        """Returns the manifest of the compiled graphs.

        For a CPU, :func:`assume_cpu_features` must have been called with its features.
        """
        device = (
            "cpu"
            if self.target.is_cpu
            else gpu_name(self.target.api, self.target.architecture)
        )
        manifest = Manifest.for_this_machine(
            self.config,
            encoding=self.encoding.full_name,
            formats=self.formats,
            devices=(device,) * self.devices,
        )
        return manifest if self.target.is_cpu else manifest.for_gpu_host()


@dataclass(frozen=True)
class CompiledGraph:
    """A graph that was compiled and saved.

    Attributes:
        name: Name of the graph.
        path: The file that it was saved to.
        seconds: Time that its compilation took, in seconds.
    """

    name: str
    path: Path
    seconds: float


def find_target(name: str) -> Target:
    """Returns the target with a name such as "cpu", "cuda" or "hip:gfx942".

    Raises:
        MllamaError: If MAX knows no such target.
    """
    api, _, architecture = name.partition(":")
    known = ARCHITECTURES.get(api)
    if known is None:
        raise MllamaError(
            f"{name!r} is not a target: use "
            + " or ".join(f"{api}:{names[0]}" for api, names in ARCHITECTURES.items())
        )
    architecture = architecture or known[0]
    if architecture not in known:
        raise MllamaError(
            f"{architecture!r} is not a {api} target; use one of " + ", ".join(known)
        )
    return Target(api, architecture)
