"""Measures what forced tokens save: those that a grammar leaves no choice about.

    python -m benchmarks.forced_tokens                     # the demo model
    python -m benchmarks.forced_tokens --model FILE
    python -m benchmarks.forced_tokens --model FILE --random-layers 8

Answers with a schema of 30 fields, sampled with one seed, are decoded token by token
and as they are served, in turn in one process.  With ``--random-layers`` the file is
made, unless it exists: so many text layers of 11B's shape with random q4_k blocks.
With random weights logits are nearly level, and rounding makes the answers differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.random_model import Depth, write_random_gguf
from mllama import LLM
from mllama.runtime import forced_tokens

ROUNDS: Final = 3

_KINDS: Final[list[dict[str, Any]]] = [
    {"type": "string", "maxLength": 8},
    {"type": "integer", "minimum": 0, "maximum": 1000},
    {"type": "boolean"},
    {"enum": ["red", "green", "blue"]},
    {"type": "string", "format": "date"},
]


def schema(fields: int) -> dict[str, Any]:
    """Returns the schema of an object with so many required fields."""
    properties = {
        f"property_{number}": _KINDS[number % len(_KINDS)] for number in range(fields)
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def measure(llm: LLM, fields: int) -> tuple[list[int], int, float, float]:
    """Returns an answer's tokens, the number of steps, and seconds, also of cores."""
    started, used = time.perf_counter(), time.process_time()
    tokens: list[int] = []
    steps = 0
    for chunk in llm.chat(
        [{"role": "user", "content": "Describe it."}],
        guided_json=schema(fields),
        max_new_tokens=2000,
        temperature=1.0,
        seed=1,
        stream=True,
    ):
        tokens += chunk.token_ids
        steps += 1
    return tokens, steps, time.perf_counter() - started, time.process_time() - used


def main() -> None:
    """Prints steps, seconds and processor time of both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--random-layers", type=int, metavar="N")
    parser.add_argument("--fields", type=int, default=30)
    options = parser.parse_args()
    if options.random_layers and not options.model.exists():
        depth = Depth(
            vision_layers=2,
            global_layers=1,
            text_layers=options.random_layers,
            cross=(options.random_layers // 2,),
            intermediate_layers=(0, 1),
        )
        write_random_gguf(options.model, depth)
    most = forced_tokens.MAX_FORCED_TOKENS
    found: dict[int, list[tuple[list[int], int, float, float]]] = {0: [], most: []}
    with LLM(options.model, max_length=4096, max_batch_size=1) as llm:
        measure(llm, 1)
        for _ in range(ROUNDS):
            for each, figures in found.items():
                forced_tokens.MAX_FORCED_TOKENS = each  # type: ignore[misc]
                figures.append(measure(llm, options.fields))
    for name, figures in zip(
        ("token by token", "as served"), found.values(), strict=True
    ):
        tokens, steps, *_ = figures[0]
        seconds, used = (statistics.median(x[i] for x in figures) for i in (2, 3))
        print(
            f"{name}: {len(tokens)} tokens in {steps} steps, {seconds:.2f} s, "
            f"{used:.2f} s of cores"
        )
    answers = [tokens for figures in found.values() for tokens, *_ in figures]
    same = all(tokens == answers[0] for tokens in answers)
    print("the answers are the same" if same else "the answers differ")


if __name__ == "__main__":
    main()
