"""What of this machine and these versions a compiled graph depends on."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

from mllama.utils.cpu import cpu_features
from mllama.version import __version__

_X86_64_V3 = (
    "abm",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "movbe",
    "popcnt",
    "sse",
    "sse2",
    "sse4_1",
    "sse4_2",
    "ssse3",
)
"""What every CPU of that level has, in the kernel's names."""


def gpu_host() -> tuple[str, tuple[str, ...]]:
    """The CPU that graphs for another machine's GPUs are compiled for.

    Returns:
        LLVM's name of it, and its features as :func:`cpu_features` has them: a level
        that machines with GPUs have.  Without one, an empty name and this machine's.
    """
    if platform.machine() == "x86_64":
        return "x86-64-v3", ("x86_64", *_X86_64_V3)
    return "", cpu_features()


def gpu_name(api: str, architecture: str) -> str:
    """A kind of GPU in a manifest: ``cuda:sm_90``.

    MAX finds an ``sm_90a`` on a machine, and makes code for it if asked for ``sm_90``.
    """
    return f"{api}:{architecture.removesuffix('a') if api == 'cuda' else architecture}"


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions that graphs depend on: MAX's, this package's, and a digest
    of the sources that graphs are made of.

    The sources count since they may change between two releases.
    """
    return {
        "max": version("max"),
        "mllama": __version__,
        "sources": _sources_digest(),
    }


GRAPH_SOURCES = (
    "config",
    "kernels/dispatch.py",
    "kernels/mojo/attention",
    "kernels/mojo/gguf_matmul",
    "kernels/mojo/int8_matmul",
    "kernels/ops/attention.py",
    "kernels/ops/gguf_matmul.py",
    "kernels/ops/int8_matmul.py",
    "max_compat/compiler.py",
    "max_compat/model.py",
    "max_model/graphs.py",
    "max_model/model_config.py",
    "nn",
)
"""What a graph is made of, as files and folders of this package: the network, its
kernels, and what builds graphs.  A change elsewhere compiles nothing anew."""


def graph_source_files() -> list[Path]:
    """Returns the files of :data:`GRAPH_SOURCES`, sorted."""
    root = Path(__file__).resolve().parents[1]
    files = []
    for name in GRAPH_SOURCES:
        path = root / name
        found = [path] if path.is_file() else path.rglob("*")
        files += [file for file in found if file.suffix in (".py", ".mojo")]
    return sorted(files)


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for file in graph_source_files():
        digest.update(f"{file.name}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
