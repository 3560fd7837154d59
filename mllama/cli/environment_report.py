"""Information for a problem report: versions, machine, caches and settings.

If a probe fails, its value is the error; the others still run.
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

from mllama.cli.cache_entries import entries_of
from mllama.compilation.store import COMPILED_DIRECTORY
from mllama.kernels.dispatch import chosen_kernels, kernels_summary
from mllama.runtime.verdict_record import recorded_verdict
from mllama.utils.cache_dir import cache_home, cache_root, disk_usage
from mllama.utils.cpu import cpu_features
from mllama.utils.sizes import format_bytes
from mllama.version import __version__

Facts = dict[str, str]
"""Values by name."""

Report = dict[str, Facts]
"""Facts by section."""

Probe = Callable[[], str]
"""Returns one value; may fail."""

_PACKAGES: Final = ("max", "transformers", "tokenizers", "huggingface-hub", "numpy")

_SETTING_PREFIXES: Final = (
    "MLLAMA_",
    "MAX_",
    "MODULAR_",
    "HF_",
    "HUGGING_FACE_",
    "OLLAMA_",
)
_OTHER_SETTINGS: Final = (
    "CUDA_VISIBLE_DEVICES",
    "OTEL_SDK_DISABLED",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
)
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_CREDENTIALS_IN_URL = re.compile(r"(?<=//)[^/@\s]+@")

_RELEVANT_CPU_FEATURE: Final = re.compile(
    r"(avx2|fma|f16c|avx512f|avx512_(bf16|vnni)|avx_vnni|amx_\w+|asimd|neon|sve2?|bf16"
    r"|i8mm|sme)"
)
"""CPU features that decide how fast this model runs."""


def environment_report(settings: Mapping[str, str]) -> Report:
    """Returns all facts, by section and name.

    Args:
        settings: Environment variables as the user has set them.
    """
    return {
        "versions": _collected(_versions),
        "machine": _collected(_machine),
        "caches": _collected(_caches),
        "compiled models": _collected(_compiled_models),
        "environment": _collected(lambda: _environment(settings)),
    }


def as_text(report: Report) -> str:
    """Returns the report as lines with aligned values."""
    width = max(len(name) for facts in report.values() for name in facts) + 2
    lines = []
    for section, facts in report.items():
        lines.append(f"{section}:")
        lines += [f"  {name:{width}}{value}" for name, value in facts.items()]
        if not facts:
            lines.append("  none")
    return "\n".join(lines)


def _collected(section: Callable[[], Iterator[tuple[str, Probe]]]) -> Facts:
    facts: Facts = {}
    try:
        for name, probe in section():
            facts[name] = _result(probe)
    except Exception as error:
        facts["failed"] = _failure(error)
    return facts


def _result(probe: Probe) -> str:
    try:
        return probe()
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> str:
    return f"unknown ({type(error).__name__}: {' '.join(str(error).split())})"


def _versions() -> Iterator[tuple[str, Probe]]:
    yield "mllama", lambda: __version__
    for package in _PACKAGES:
        yield package, partial(version, package)
    yield "Python", platform.python_version
    yield "system", platform.platform


def _machine() -> Iterator[tuple[str, Probe]]:
    yield "CPU", cpu_name
    yield "CPU features", _relevant_cpu_features
    yield "kernels", lambda: kernels_summary(chosen_kernels())
    yield "cores", _cores
    yield "memory", _memory
    yield "GPUs", _gpus
    yield "GPU self-check", recorded_verdict


def cpu_name() -> str:
    """Returns the model name of the CPU and its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return f"{value.strip()} ({platform.machine()})"
    return f"{platform.processor()} ({platform.machine()})".strip()


def _relevant_cpu_features() -> str:
    return " ".join(
        name for name in cpu_features() if _RELEVANT_CPU_FEATURE.fullmatch(name)
    )


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
    names = [
        f"gpu:{spec.id} {device.api} {device.architecture_name}"
        for spec in gpus
        for device in [Accelerator(spec.id)]
    ]
    return ", ".join(names) or "none that MAX sees"


def _caches() -> Iterator[tuple[str, Probe]]:
    root = cache_root()
    yield "mllama", lambda: _with_size(root)
    for kind in sorted(root.iterdir()) if root.is_dir() else ():
        if kind.is_dir():
            yield f"mllama {kind.name}", partial(_with_size, kind)
    yield "MAX", lambda: _with_size(_max_cache())
    yield "hub", lambda: _with_size(_hub_cache())


def _max_cache() -> Path:
    return cache_home() / "modular"


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or cache_home() / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _compiled_models() -> Iterator[tuple[str, Probe]]:
    for entry in entries_of(COMPILED_DIRECTORY):
        text = f"{format_bytes(entry.bytes)}, {entry.description}"
        yield entry.path.name, partial(str, text)


def _with_size(directory: Path) -> str:
    if not directory.is_dir():
        return f"{directory} (none)"
    return f"{directory} ({format_bytes(disk_usage(directory))})"


def _environment(
    settings: Mapping[str, str],
) -> Iterator[tuple[str, Probe]]:
    for name, value in sorted(settings.items()):
        if name.startswith(_SETTING_PREFIXES) or name in _OTHER_SETTINGS:
            yield name, partial(_without_secrets, name, value)


def _without_secrets(name: str, value: str) -> str:
    if _SECRET_NAME.search(name):
        return "set (hidden)" if value else "set, but empty"
    return _CREDENTIALS_IN_URL.sub("(hidden)@", value)
