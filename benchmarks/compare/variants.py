"""This project with other options or another model: an engine for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "mllama"
"""The engine of this project without options."""

DEMO, EIGHT_BIT, INT8_IMAGES = "demo", "8bit", "8bit images"
SPECULATION = "speculation"


@dataclass(frozen=True)
class Variant:
    """An engine of this project.

    Attributes:
        workloads: Letters of the workloads that it takes part in.
        options: Options of `mllama.LLM`.
        threads: Number of threads, or None for the run's.
        is_demo: Whether it serves the demo model, and not that of the benchmark.
        script: The file in `engines` that runs it, without `.py`.
    """

    workloads: str
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    is_demo: bool = False
    script: str = "run_mllama"


_INT8_VISION = {"vision_encoding": "int8"}

VARIANTS = {
    OURS: Variant("abcdef"),
    EIGHT_BIT: Variant("abej", _INT8_VISION),
    INT8_IMAGES: Variant("j", {**_INT8_VISION, "image_cache_encoding": "int8"}),
    SPECULATION: Variant("i", {"max_length": 1024}, script="run_speculation"),
    DEMO: Variant("g", {"max_length": 2048}, is_demo=True),
}
"""The variants of every run, by name; `--also` adds others."""


def thread_counts(threads: int) -> list[int]:
    """Returns the powers of two below a number of threads."""
    return [1 << power for power in range(threads.bit_length()) if 1 << power < threads]


def threads_name(count: int) -> str:
    """Returns the name of the variant with a number of threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def thread_variants(threads: int) -> dict[str, Variant]:
    """Returns variants with fewer threads, which show how decoding scales."""
    return {
        threads_name(count): Variant("d", threads=count)
        for count in thread_counts(threads)
    }
