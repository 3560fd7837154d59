"""Times the attention among patches: the custom op and MAX's.

``python -m benchmarks.kernels.vision_attention`` times them in turn, at the published
16 heads of 80 dimensions, for an image of four tiles and for one of one tile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue

from benchmarks.kernels.timing import KERNELS, time_calls, use_kernels
from mllama.kernels.dispatch import MAX, mojo_package, supports_bfloat16
from mllama.kernels.ops.attention import MOJO_PACKAGE
from mllama.nn.vision.attention import padded_attention

PATCHES, HEADS, HEAD_DIM = 6432, 16, 80
REAL_PATCHES = {"four tiles": 6404, "one tile": 1601}

HEADER = f"{'':44}{'min ms':>9}{'median':>9}{'GFLOP/s':>9}{'ratio':>7}"


def compile_model(
    session: InferenceSession, kernels: str, *, bfloat16: bool = False
) -> Model:
    """Compiles a graph of the attention alone."""
    cpu = DeviceRef.CPU()

    def forward(*inputs: Any) -> TensorValue:
        values = [value.tensor for value in inputs]
        return padded_attention(*values, HEAD_DIM, allow_bfloat16=bfloat16)

    states = TensorType(DType.float32, ["images", PATCHES, HEADS * HEAD_DIM], cpu)
    with use_kernels(kernels):
        graph = Graph(
            f"attention_{kernels}_{bfloat16}",
            forward,
            input_types=[
                *[states] * 3,
                TensorType(DType.int64, ["real"], cpu),
                TensorType(DType.int64, ["padding"], cpu),
            ],
            custom_extensions=[] if kernels == MAX else [mojo_package(MOJO_PACKAGE)],
        )
    return session.load(graph)


def report(
    title: str, calls: Mapping[str, Callable[[], object]], work: float, rounds: int
) -> None:
    """Prints a line for each call; ratios compare the shortest times with the first.

    Args:
        title: Name of the image.
        calls: The calls, by name.
        work: Floating-point operations of a call, in thousands of millions.
        rounds: Number of times each is called.
    """
    times = time_calls(calls, rounds)
    base = min(next(iter(times.values())))
    for name, taken in times.items():
        least, median = min(taken), float(np.median(taken))
        print(
            f"{title + ', ' + name:44}{least * 1e3:9.1f}{median * 1e3:9.1f}"
            f"{work / least:9.1f}{base / least:7.2f}",
            flush=True,
        )


def main() -> None:
    """Prints a line for each image and kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    session = InferenceSession(devices=[CPU()])
    models = {
        name: compile_model(session, kernels) for name, kernels in KERNELS.items()
    }
    if supports_bfloat16():
        models["custom, bfloat16"] = compile_model(session, "auto", bfloat16=True)
    rng = np.random.default_rng(0)
    states = [
        rng.normal(0, 1, (1, PATCHES, HEADS * HEAD_DIM)).astype(np.float32)
        for _ in range(3)
    ]
    print(HEADER)
    for title, real in REAL_PATCHES.items():
        padding = PATCHES - real
        lengths = [np.zeros(real, np.int64), np.zeros(padding, np.int64)]
        calls = {
            name: lambda m=model, i=(*states, *lengths): m.execute(*i)
            for name, model in models.items()
        }
        pairs = real * PATCHES + padding * real
        report(title, calls, 4e-9 * pairs * HEADS * HEAD_DIM, rounds)


if __name__ == "__main__":
    main()
