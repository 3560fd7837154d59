"""The properties of this machine and of this package that compiled graphs depend on."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

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
"""The features of every x86-64-v3 CPU, as the Linux kernel names them."""

_AVX512_VNNI = (
    "adx",
    "avx512_vnni",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512f",
    "avx512vl",
)
"""What LLVM's ``cascadelake`` has in addition, among those that code is made for."""

_AVX_VNNI = (
    "adx",
    "aes",
    "avx_vnni",
    "gfni",
    "sha_ni",
    "vaes",
    "vpclmulqdq",
)
"""What LLVM's ``alderlake`` has in addition, among those that code is made for."""

CPU_TARGETS: Final = {
    "x86-64-v3": ("x86_64", *_X86_64_V3),
    "alderlake": ("x86_64", *sorted((*_X86_64_V3, *_AVX_VNNI))),
    "cascadelake": ("x86_64", *sorted((*_X86_64_V3, *_AVX512_VNNI))),
}
"""The CPUs that can be compiled for on any machine: the features of each in the form of
:func:`cpu_features`, by LLVM's name.  Graphs run on every CPU with these features:
``x86-64-v3`` on those with AVX2, ``alderlake`` on those with AVX-VNNI, ``cascadelake``
on those with AVX-512 and VNNI."""


def gpu_host() -> tuple[str, tuple[str, ...]]:
    """Returns the host CPU to assume when compiling for another machine's GPUs.

    Returns:
        LLVM's name of the CPU, and its features in the form of :func:`cpu_features`.
        On x86-64 this is a level that every machine with a GPU supports; on other
        architectures the name is empty and the features are those of this machine.
    """
    if platform.machine() == "x86_64":
        return "x86-64-v3", CPU_TARGETS["x86-64-v3"]
    return "", cpu_features()


def gpu_name(api: str, architecture: str) -> str:
    """Returns the name of a GPU model in a manifest, such as ``cuda:sm_90``.

    MAX reports ``sm_90a`` for a GPU that it compiles for as ``sm_90``, so the suffix is
    dropped.
    """
    return f"{api}:{architecture.removesuffix('a') if api == 'cuda' else architecture}"


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions that graphs depend on.

    These are the versions of MAX and of this package, and a digest of the files that
    graphs are built from, because these files may change between two releases.
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
    "kernels/mojo/float_matmul",
    "kernels/mojo/gguf_matmul",
    "kernels/mojo/int8_matmul",
    "kernels/ops/attention.py",
    "kernels/ops/float_matmul.py",
    "kernels/ops/gguf_matmul.py",
    "kernels/ops/int8_matmul.py",
    "max_compat/compiler.py",
    "max_compat/model.py",
    "max_model/graphs.py",
    "max_model/model_config.py",
    "max_model/query_graph.py",
    "nn",
)
"""The files and folders of this package that graphs are built from: the network, its
kernels, and the code that builds graphs.  A change to any other file keeps compiled
graphs valid."""


def graph_source_files() -> list[Path]:
    """Returns the source files in :data:`GRAPH_SOURCES`, sorted by path."""
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
