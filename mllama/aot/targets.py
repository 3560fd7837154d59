"""The kinds of GPU that graphs can be compiled for, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
"""GPU architectures with bfloat16 that MAX's compiler knows, by API.

The first of each is MAX's default.
"""


@dataclass(frozen=True)
class Target:
    """A kind of GPU.

    Attributes:
        api: ``cuda`` or ``hip``.
        architecture: Name of the architecture, such as ``sm_90``.
    """

    api: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.api}:{self.architecture}"


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
    """Returns the target with a name such as "cuda" or "hip:gfx942".

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
            f"{architecture!r} is not a {api} target with bfloat16; use one of "
            + ", ".join(known)
        )
    return Target(api, architecture)
