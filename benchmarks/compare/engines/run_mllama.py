"""This project: `run_mllama.py MODEL N OPTIONS`; MODEL may be `demo`.

N is the number of threads, and OPTIONS are options of `mllama.LLM` as a JSON object.
Requests go through it, as a user's do.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.compare.engines.mllama_clock import SAMPLING, VISION, Clock, watch
from benchmarks.compare.engines.protocol import answer_requests

BATCH = 8
READ_MIB = 256
"""Memory that is read between steps: more than the caches have, within milliseconds."""


def load() -> dict[str, Any]:
    """Loads the model and returns the functions that requests name."""
    from benchmarks.serving import ANSWER_TOKENS, tokens_per_second
    from mllama import LLM

    model, threads, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    clock = Clock()
    watch(clock)
    llm = LLM(
        None if model == "demo" else model,
        num_threads=threads,
        max_batch_size=BATCH,
        image_cache_size="1GiB",
        quiet=True,
        **options,
    )

    def ask(prompt: str, images: list[str], new_tokens: int) -> dict[str, Any]:
        from PIL import Image

        pictures = [Image.open(path).convert("RGB") for path in images]
        clock.reset()
        output = llm.generate(
            prompt, pictures, max_new_tokens=new_tokens, ignore_eos=True
        )
        if output.completion_tokens != new_tokens:
            raise RuntimeError(f"{output.completion_tokens} tokens, not {new_tokens}")
        rate = output.tokens_per_second
        return {
            "first": output.time_to_first_token_seconds,
            "per_token": 1 / rate if rate else None,
            "prompt_tokens": output.prompt_tokens - output.image_tokens,
            **clock.report(),
        }

    def ask_between_reads(library: str, **question: Any) -> dict[str, Any]:
        """Asks a question and reads memory after each step, see `ceilings.c`."""
        read_once = ctypes.CDLL(library).read_once
        read_once.restype = ctypes.c_double

        def read() -> float:
            # First let the scheduler hand out the step's token.
            time.sleep(0.003)
            return float(read_once(threads, READ_MIB))

        clock.between = read
        try:
            answer = ask(**question)
        finally:
            clock.between = None
        return answer | clock.readable()

    def batch(prompts: list[str], images: list[str], new_tokens: int) -> dict[str, Any]:
        """Runs requests together; returns the median seconds of a step of all."""
        from PIL import Image

        pictures = [Image.open(path).convert("RGB") for path in images]
        clock.reset()
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(
                pool.map(
                    lambda prompt: llm.generate(
                        prompt,
                        pictures,
                        max_new_tokens=new_tokens,
                        ignore_eos=True,
                    ),
                    prompts,
                )
            )
        return {"step": clock.step_of(len(prompts))}

    def streams(
        images: list[str], asked: int, new_tokens: int = ANSWER_TOKENS
    ) -> float:
        """Returns the tokens per second of users who ask one question after another,
        each about an image."""
        from PIL import Image

        pictures = [Image.open(image).convert("RGB") for image in images]
        return tokens_per_second(llm, pictures, asked, new_tokens, ignore_eos=True)

    def profiled_streams(
        path: str, images: list[str], asked: int, new_tokens: int
    ) -> float:
        """Does the same and writes the times of MAX's operations."""
        spans = ctypes.CDLL(os.environ["MODULAR_PROFILER_SHIM"])
        spans.spans_reset()
        rate = streams(images, asked, new_tokens)
        spans.spans_write(path.encode())
        return rate

    def operations(path: str, **question: Any) -> dict[str, Any]:
        """Asks a question and writes the times of MAX's operations so far at three
        points: after the vision graph, the first token and the last."""
        spans = ctypes.CDLL(os.environ["MODULAR_PROFILER_SHIM"])
        spans.spans_reset()
        for name in (VISION, SAMPLING):
            clock.after[name] = partial(spans.spans_write, f"{path}.{name}".encode())
        answer = ask(**question)
        spans.spans_write(f"{path}.all".encode())
        return answer

    def about() -> dict[str, Any]:
        from importlib.metadata import version

        import mllama

        return {
            "mllama": mllama.__version__,
            "max": version("max"),
            "threads": threads,
            **clock.about(),
        }

    functions = (
        ask,
        ask_between_reads,
        batch,
        streams,
        profiled_streams,
        operations,
        about,
    )
    return {each.__name__: each for each in functions}


if __name__ == "__main__":
    answer_requests(load)
