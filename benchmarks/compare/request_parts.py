"""Splits the time of one request into parts, down to the operations of the graphs.

MAX annotates every operation for profilers.  `spans.c` acts as a profiler, so that the
times are those of the graphs that users run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.compare.ceilings import CompilerFailure
from benchmarks.compare.environments import EnvironmentFailure
from benchmarks.compare.process import EngineFailure
from benchmarks.compare.results import Results
from benchmarks.compare.session import Session
from benchmarks.compare.spans import profiling_variables, read_shares, read_spans
from benchmarks.compare.variants import OURS
from benchmarks.compare.workloads import IMAGE_TOKENS, OUR_TOKENS

ATTENTION = "vision attention"
MATMULS = "vision matmuls"
KEYS_VALUES = "K/V projection"
OTHER_VISION = "vision, other"

_KINDS = (
    (KEYS_VALUES, ("q4_k", "q6_k", "q4_0", "qmatmul", "gguf", "vroom", "store",
                   "rms_norm", "kv_cache", "keys_values")),
    (ATTENTION, ("attention", "softmax", "flash", "mha")),
    (MATMULS, ("matmul", "linear", "gemm", "product")),
)  # fmt: skip
"""Words in the names of the vision graph's operations; the first match counts.

GGUF blocks, RMS norm and stores occur there for keys and values only."""


def kind_of(operation: str) -> str:
    """Returns the part of the vision graph that an operation belongs to."""
    name = operation.lower()
    for kind, words in _KINDS:
        if any(word in name for word in words):
            return kind
    return OTHER_VISION


def _since(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    differences = {name: value - before.get(name, 0.0) for name, value in now.items()}
    return {name: value for name, value in differences.items() if value > 1e-6}


def measure_operations(session: Session) -> None:
    """Profiles the operations of one question about an image in a separate process."""
    results = session.results
    try:
        process = session.start(OURS, profiling_variables())
    except (CompilerFailure, EngineFailure, EnvironmentFailure) as error:
        results.fail("operations", OURS, str(error))
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            answer = {}
            for name in ("warm", "counted"):
                answer = process.ask(
                    "operations",
                    path=f"{folder}/{name}",
                    prompt=session.prompts.question(IMAGE_TOKENS, 1),
                    images=[session.prompts.picture(4)],
                    new_tokens=OUR_TOKENS,
                )
            session.measure_machine({"bandwidth_after_operations": "read_bandwidth"})
            written = {
                end: (Path(folder) / f"counted.{end}").read_text()
                for end in ("vision", "sampling", "all")
            }
            vision, first, whole = map(read_spans, written.values())
    except (EngineFailure, OSError) as error:
        results.fail("operations", OURS, str(error))
        return
    finally:
        process.close()
    later = OUR_TOKENS - 1
    total = answer["first"] + answer["per_token"] * later
    results.operations = {
        "vision graph": read_shares(written["vision"]),
        "prefill": _since(first, vision),
        "decode": _since(whole, first),
        "request": {
            "whole": total,
            **{
                name: answer[name]
                for name in ("preparing", "vision", "prefill_graph", "decode_graphs",
                             "sampling")
            },
        },
    }  # fmt: skip


def request_parts(results: Results) -> dict[str, float]:
    """Returns the seconds of each part of a request, in chronological order.

    The parts add up to the whole request.  The time of the vision graph is divided in
    proportion to its operations.
    """
    if not results.operations:
        return {}
    request = results.operations["request"]
    kinds = dict.fromkeys((ATTENTION, MATMULS, OTHER_VISION, KEYS_VALUES), 0.0)
    for name, seconds in results.operations["vision graph"].items():
        kinds[kind_of(name)] += seconds
    annotated = sum(kinds.values())
    scale = request["vision"] / annotated if annotated else 0.0
    parts = {"preprocess": request["preparing"]}
    parts |= {kind: seconds * scale for kind, seconds in kinds.items()}
    parts |= {
        "prefill": request["prefill_graph"],
        "decode": request["decode_graphs"],
        "sampling": request["sampling"],
    }
    return parts | {"scheduler": request["whole"] - sum(parts.values())}
