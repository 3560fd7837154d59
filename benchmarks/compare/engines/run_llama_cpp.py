"""llama.cpp on the text layers alone: `run_llama_cpp.py FILE.gguf N`.

N is the number of threads.  Prompts are random token ids.
"""

from __future__ import annotations

import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp
from protocol import answer_requests

NEEDED = ("AVX2", "FMA", "F16C")
"""Instruction sets that the library must use if the processor has them."""


def check_build(system: str, features: str) -> None:
    """Refuses a library that wasn't compiled for this processor.

    Args:
        system: llama.cpp's description of its build.
        features: The processor's flags.

    Raises:
        RuntimeError: If it lacks an instruction set that the processor has.
    """
    has = features.upper().split()
    lacks = [name for name in NEEDED if name in has and f"{name} = 1" not in system]
    if lacks:
        raise RuntimeError(f"llama.cpp was built without {', '.join(lacks)}")


def load() -> dict[str, Any]:
    """Loads the file and returns the functions that requests name."""
    threads = int(sys.argv[2])
    system = llama_cpp.llama_print_system_info().decode()
    check_build(system, Path("/proc/cpuinfo").read_text())
    llm = llama_cpp.Llama(
        sys.argv[1],
        n_ctx=4608,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    draw = random.Random(0)

    def token() -> int:
        return draw.randrange(256)

    def ask_tokens(tokens: int, new_tokens: int) -> dict[str, Any]:
        prompt = [token() for _ in range(tokens)]
        llm.reset()
        started = time.perf_counter()
        llm.eval(prompt)
        chosen = llm.sample(temp=0.0)
        first = time.perf_counter()
        for _ in range(new_tokens - 1):
            llm.eval([chosen])
            chosen = llm.sample(temp=0.0)
        ended = time.perf_counter()
        return {
            "first": first - started,
            "per_token": (ended - first) / (new_tokens - 1) if new_tokens > 1 else None,
            "prompt_tokens": tokens,
        }

    def about() -> dict[str, Any]:
        return {
            "llama-cpp-python": version("llama-cpp-python"),
            "threads": threads,
            "system": system,
        }

    return {"ask_tokens": ask_tokens, "about": about}


if __name__ == "__main__":
    answer_requests(load)
