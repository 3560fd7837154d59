"""Compiles the graphs for GPUs on a machine without one: `make check-gpu`.

    python -m benchmarks.gpu_targets
    python -m benchmarks.gpu_targets --target cuda:sm_100 --devices 4

The model has 11B's widths and few layers, which need the same kernels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from mllama.aot.cross_compile import compile_for_target
from mllama.aot.targets import CompiledGraph, CrossCompilation, find_target
from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.weights.encodings import Encoding

CHECKED = (("cuda:sm_90", 1), ("hip:gfx942", 1), ("cuda:sm_90", 2))
"""Targets, each with the number of devices that share the model."""

KNOWN_FAILURES = ("hip:gfx942",)
"""Targets for which MAX 26.7 can't compile bfloat16; `docs/gpu.md` explains why."""

CONFIG = MllamaConfig.from_dict(
    {
        "model_type": "mllama",
        "text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
        "vision_config": {
            "image_size": 560,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 3 * 1280,
        },
    }
)


def main() -> None:
    """Compiles for the targets, and exits with 1 if an outcome is unexpected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", help="only this target")
    parser.add_argument(
        "--devices", type=int, default=1, help="number of devices that share the model"
    )
    arguments = parser.parse_args()
    checked = [(arguments.target, arguments.devices)] if arguments.target else CHECKED
    surprised = False
    for name, devices in checked:
        title = f"{name}, {devices} device(s)"
        with tempfile.TemporaryDirectory() as directory:
            try:
                compilation = CrossCompilation(
                    CONFIG, find_target(name), Encoding("bfloat16", "gpu"), devices
                )
                graphs = compile_for_target(compilation, Path(directory))
            except MllamaError as error:
                surprised |= name not in KNOWN_FAILURES
                known = " as known" if name in KNOWN_FAILURES else ""
                print(f"{title}: FAILED{known}: {error}", flush=True)
                continue
            for graph in graphs:
                print(f"{title}: {_described(graph)}", flush=True)
            if name in KNOWN_FAILURES:
                surprised = True
                print(f"{title}: compiles now; correct docs/gpu.md", flush=True)
    print("compiled, not run: no GPU run has been verified")
    sys.exit(surprised)


def _described(graph: CompiledGraph) -> str:
    size = graph.path.stat().st_size / 2**20
    return f"{graph.name} in {graph.seconds:.0f} s, {size:.1f} MiB"


if __name__ == "__main__":
    main()
