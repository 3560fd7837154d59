"""ik_llama.cpp on the text layers alone: `run_ik_llama_cpp.py FILE.gguf N [ABSENT]`.

N is the number of threads, and ABSENT what its build must not use, as in `isa.py`.
Prompts are random token ids.  Weights are repacked as they load (`-rtr`) and flash
attention is on (`-fa`), the fastest of the four combinations on prompts; the package
offers the first through its binding of the C API alone.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ggml import BATCH, CONTEXT, check_build, timed_answer
from ik_llama_cpp import _ctypes_api as api
from ik_llama_cpp._lib_loader import load_shared_library
from protocol import answer_requests

VOCABULARY = 256
"""Logits that the next token is chosen among, so that choosing takes no time."""


def load() -> dict[str, Any]:
    """Loads the file and returns the functions that requests name.

    Raises:
        RuntimeError: If the library can't load the file.
    """
    file, threads, absent = sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:])
    system_info = load_shared_library().llama_print_system_info
    system_info.restype = ctypes.c_char_p
    system = system_info().decode()
    check_build(system, absent)
    api.llama_backend_init()
    of_model = api.llama_model_default_params()
    of_model.repack_tensors = True
    model = api.llama_model_load_from_file(file.encode(), of_model)
    of_context = api.llama_context_default_params()
    of_context.n_ctx = CONTEXT
    of_context.n_batch = of_context.n_ubatch = BATCH
    of_context.n_threads = of_context.n_threads_batch = threads
    of_context.flash_attn = True
    context = model and api.llama_init_from_model(model, of_context)
    if not context:
        raise RuntimeError(f"ik_llama.cpp can't load {file}")
    length = 0

    def decode(tokens: Sequence[int]) -> int:
        nonlocal length
        batch = api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = length + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = place == len(tokens) - 1
        failed = api.llama_decode(context, batch)
        api.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        length += len(tokens)
        logits = api.llama_get_logits_ith(context, -1)
        return max(range(VOCABULARY), key=logits.__getitem__)

    def ask_tokens(tokens: int, new_tokens: int) -> dict[str, Any]:
        nonlocal length
        api.llama_kv_cache_clear(context)
        length = 0
        return timed_answer(tokens, new_tokens, decode)

    def about() -> dict[str, Any]:
        return {
            "ik-llama-cpp-python": version("ik-llama-cpp-python"),
            "threads": threads,
            "system": system,
        }

    return {"ask_tokens": ask_tokens, "about": about}


if __name__ == "__main__":
    answer_requests(load)
