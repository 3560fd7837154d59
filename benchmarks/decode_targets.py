"""Compiles the graphs that decode on a GPU, on a machine without one.

    python -m benchmarks.decode_targets
    python -m benchmarks.decode_targets --target cuda:sm_100 --graph greedy

These are the text graph of the demo model, this package's greedy sampler, and the graph
by which MAX's overlap scheduler gives a step the tokens of the last one.  `make
check-gpu-decode` runs it.  `make check-gpu` compiles both graphs at 11B's widths, and
takes far longer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from mllama.aot.targets import CrossCompilation, Target, find_target
from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.weights.encodings import Encoding

VOCABULARY: Final = 128_256
"""Logits of the published models."""


def greedy(target: Target) -> Any:
    """Returns this package's greedy sampler."""
    from max.graph import DeviceRef

    from mllama.runtime.greedy_sampler import greedy_graph

    del target
    return greedy_graph(VOCABULARY, VOCABULARY - 8, DeviceRef.GPU())


def future_tokens(target: Target) -> Any:
    """Returns MAX's graph that puts the last step's tokens into a step."""
    from max.graph import DeviceRef
    from max.pipelines.lib.pipeline_variants.overlap_text_generation import (
        build_realize_future_token_graph,
    )

    del target
    return build_realize_future_token_graph(
        devices=[DeviceRef.GPU()], enable_dp=False, num_speculative_tokens=0
    )


def text(target: Target) -> Any:
    """Returns the demo model's text graph in bfloat16."""
    from mllama.aot.target_graphs import planned_graphs
    from mllama.max_model.graphs import TEXT_DECODER

    config = MllamaConfig.from_dict(
        json.loads((MODEL_PATH / "config.json").read_text())
    )
    compilation = CrossCompilation(config, target, Encoding("bfloat16", "gpu"))
    (lazy,) = (
        graph for graph in planned_graphs(compilation) if graph.name == TEXT_DECODER
    )
    return lazy.trace()


GRAPHS: Final[dict[str, Callable[[Target], Any]]] = {
    "greedy": greedy,
    "future-tokens": future_tokens,
    "text": text,
}
"""Functions that trace the graphs, the quickest to compile first."""


def main() -> None:
    """Compiles the graphs one by one; exits with 1 if MAX can't compile one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cuda:sm_90", help="kind of GPU")
    parser.add_argument("--graph", choices=GRAPHS, help="only this graph")
    arguments = parser.parse_args()
    target = find_target(arguments.target)
    if target.is_cpu:
        parser.error(f"{target} is not a GPU")

    from max.driver import Accelerator
    from max.engine import InferenceSession

    from mllama.aot.target_graphs import make_devices_virtual

    make_devices_virtual(target, 1)
    session = InferenceSession(devices=[Accelerator()])
    has_failed = False
    for name in [arguments.graph] if arguments.graph else GRAPHS:
        started = time.perf_counter()
        try:
            session.compile(GRAPHS[name](target))
        except RuntimeError as error:
            has_failed = True
            print(f"{target}: {name} FAILED: {error.__cause__ or error}", flush=True)
            continue
        seconds = time.perf_counter() - started
        print(f"{target}: {name} compiled in {seconds:.0f} s", flush=True)
    print("compiled, not run: no GPU run has been verified")
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
