"""llama.cpp on the text layers alone: `run_llama_cpp.py FILE.gguf N [ABSENT]`.

N is the number of threads, and ABSENT what its build must not use, as in `isa.py`.
Prompts are random token ids.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import llama_cpp
from ggml import BATCH, CONTEXT, check_build, timed_answer
from protocol import answer_requests


def load() -> dict[str, Any]:
    """Loads the file and returns the functions that requests name."""
    file, threads, absent = sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:])
    system = llama_cpp.llama_print_system_info().decode()
    check_build(system, absent)
    llm = llama_cpp.Llama(
        file,
        n_ctx=CONTEXT,
        n_batch=BATCH,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )

    def decode(tokens: Sequence[int]) -> int:
        llm.eval(tokens)
        return llm.sample(temp=0.0)

    def ask_tokens(tokens: int, new_tokens: int) -> dict[str, Any]:
        llm.reset()
        return timed_answer(tokens, new_tokens, decode)

    def about() -> dict[str, Any]:
        return {
            "llama-cpp-python": version("llama-cpp-python"),
            "threads": threads,
            "system": system,
        }

    return {"ask_tokens": ask_tokens, "about": about}


if __name__ == "__main__":
    answer_requests(load)
