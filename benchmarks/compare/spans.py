"""The times of MAX's operations, which `spans.c` collects for a process."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.compare.ceilings import compiled


def profiling_variables() -> dict[str, str]:
    """Returns the environment variables that have MAX call `spans.c`.

    Raises:
        CompilerFailure: If it can't be compiled.
    """
    shim = compiled("spans", "-shared", "-fPIC", suffix=".so")
    return {"MODULAR_ENABLE_PROFILING": "on", "MODULAR_PROFILER_SHIM": str(shim)}


def seconds_attending_to_images(operations: Mapping[str, float]) -> float:
    """Returns the seconds that cross-attention took of those of all operations."""
    return sum(
        seconds
        for name, seconds in operations.items()
        if any(word in name for word in ("image_attention", "cross_attention"))
    )


def read_spans(text: str) -> dict[str, float]:
    """Returns the exclusive seconds of each span in the output of ``spans.c``."""
    return _read(text, 0)


def read_shares(text: str) -> dict[str, float]:
    """Returns each operation's share of the seconds in which any operation ran."""
    return {name: share for name, share in _read(text, 1).items() if share}


def _read(text: str, column: int) -> dict[str, float]:
    lines = (line.split("\t", 3) for line in text.splitlines())
    return {fields[-1]: float(fields[column]) for fields in lines}
