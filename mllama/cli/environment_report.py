"""What a report of a problem needs: versions, the machine, caches and settings.

Every probe stands alone: one that fails says so in its own place.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from mllama.cli.cache_entries import cache_entries
from mllama.compilation.store import COMPILED_DIRECTORY
from mllama.kernels.dispatch import kernels_summary
from mllama.utils.cache_dir import cache_home, cache_root, disk_usage
from mllama.utils.cpu import cpu_features
from mllama.utils.sizes import format_bytes
from mllama.version import __version__

Facts = dict[str, str]
Report = dict[str, Facts]

_PACKAGES: Final = ("max", "transformers", "tokenizers", "huggingface-hub", "numpy")

_SETTINGS: Final = ("MLLAMA_", "MAX_", "MODULAR_", "HF_", "HUGGING_FACE_", "OLLAMA_")
_OTHER_SETTINGS: Final = (
    "CUDA_VISIBLE_DEVICES",
    "OTEL_SDK_DISABLED",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_USER_OF_URL = re.compile(r"(?<=//)[^/@\s]+@")

_TELLING: Final = re.compile(
    r"(avx2|fma|f16c|avx512f|avx512_(bf16|vnni)|avx_vnni|amx_\w+|asimd|neon|sve2?|bf16"
    r"|i8mm|sme)"
)
"""Of the CPU's features, those that decide how fast this model is."""


def environment_report(settings: Mapping[str, str]) -> Report:
    """All facts, by section and name.

    Args:
        settings: The environment as the user has set it.
    """
    return {
        "versions": _collected(_versions),
        "machine": _collected(_machine),
        "caches": _collected(_caches),
        "compiled models": _collected(_compiled_models),
        "environment": _collected(lambda: _environment(settings)),
    }


def as_text(report: Report) -> str:
    """The report in aligned lines."""
    width = max(len(name) for facts in report.values() for name in facts) + 2
    lines = []
    for section, facts in report.items():
        lines.append(f"{section}:")
        lines += [f"  {name:{width}}{value}" for name, value in facts.items()]
        if not facts:
            lines.append("  none")
    return "\n".join(lines)


def _collected(probe: Callable[[], Iterator[tuple[str, Callable[[], str]]]]) -> Facts:
    facts: Facts = {}
    try:
        for name, value in probe():
            facts[name] = _answer(value)
    except Exception as error:
        facts["failed"] = _failure(error)
    return facts


def _answer(value: Callable[[], str]) -> str:
    try:
        return value()
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> str:
    return f"unknown ({type(error).__name__}: {' '.join(str(error).split())})"


def _versions() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "mllama", lambda: __version__
    for package in _PACKAGES:
        yield package, partial(version, package)
    yield "Python", platform.python_version
    yield "system", platform.platform


def _machine() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "CPU", cpu_name
    yield (
        "CPU features",
        lambda: " ".join(name for name in cpu_features() if _TELLING.fullmatch(name)),
    )
    yield "kernels", kernels_summary
    yield "cores", _cores
    yield "memory", _memory
    yield "GPUs", _gpus


def cpu_name() -> str:
    """What the CPU's maker calls it, and its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return f"{value.strip()} ({platform.machine()})"
    return f"{platform.processor()} ({platform.machine()})".strip()


def _cores() -> str:
    cores = os.cpu_count()
    if not hasattr(os, "sched_getaffinity"):
        return str(cores)
    return f"{len(os.sched_getaffinity(0))} usable of {cores}"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    available = format_bytes(memory.available)
    return f"{format_bytes(memory.total)}, {available} of it available"


def _gpus() -> str:
    from max.driver import Accelerator, scan_available_devices

    gpus = [spec for spec in scan_available_devices() if spec.device_type == "gpu"]
    described = [
        f"gpu:{spec.id} {device.api} {device.architecture_name}"
        for spec in gpus
        for device in [Accelerator(spec.id)]
    ]
    return ", ".join(described) or "none that MAX sees"


def _caches() -> Iterator[tuple[str, Callable[[], str]]]:
    root = cache_root()
    yield "mllama", lambda: _described(root)
    for kind in sorted(root.iterdir()) if root.is_dir() else ():
        if kind.is_dir():
            yield f"mllama {kind.name}", partial(_described, kind)
    yield "MAX", lambda: _described(_cache_of_max())
    yield "hub", lambda: _described(_cache_of_the_hub())


def _cache_of_max() -> Path:
    return cache_home() / "modular"


def _cache_of_the_hub() -> Path:
    home = os.environ.get("HF_HOME") or cache_home() / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _compiled_models() -> Iterator[tuple[str, Callable[[], str]]]:
    for model in cache_entries(COMPILED_DIRECTORY):
        text = f"{format_bytes(model.bytes)}, {model.description}"
        yield model.path.name, partial(str, text)


def _described(directory: Path) -> str:
    if not directory.is_dir():
        return f"{directory} (none)"
    return f"{directory} ({format_bytes(disk_usage(directory))})"


def _environment(
    settings: Mapping[str, str],
) -> Iterator[tuple[str, Callable[[], str]]]:
    for name, value in sorted(settings.items()):
        if name.startswith(_SETTINGS) or name in _OTHER_SETTINGS:
            yield name, partial(_without_secrets, name, value)


def _without_secrets(name: str, value: str) -> str:
    if _SECRET.search(name):
        return "set (hidden)" if value else "set, but empty"
    return _USER_OF_URL.sub("(hidden)@", value)
