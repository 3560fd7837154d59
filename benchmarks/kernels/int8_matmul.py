"""Times the int8 matmul beside MAX's float32 matmul.

``python -m benchmarks.kernels.int8_matmul`` times both in turn, for the matrices of a
vision layer at their published widths and the patches of an image of four tiles.
"""

from __future__ import annotations

import argparse

import numpy as np
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

from benchmarks.kernels.timing import INT8_KERNELS, time_calls, use_kernels
from mllama.kernels.dispatch import MAX, mojo_package
from mllama.kernels.ops.int8_matmul import (
    MOJO_PACKAGE,
    int8_matmul,
    quantize_int8,
    tiled_shape,
)

SHAPES = ((1280, 1280), (1280, 5120), (5120, 1280))
"""Input and output widths."""
PATCHES = 6432
HOST = DeviceRef.CPU()


def compile_model(session: InferenceSession, kernels: str) -> Model:
    """Compiles a graph of the product alone, whose matrix is an input."""
    if kernels != MAX:
        types = [
            TensorType(DType.float32, ["patches", "width"], HOST),
            TensorType(DType.int8, ["tiles", "tile_size"], HOST),
            TensorType(DType.float32, ["columns"], HOST),
        ]
        with use_kernels(kernels):
            return session.load(
                Graph(
                    f"int8_{kernels}",
                    lambda x, weights, scales: int8_matmul(
                        x.tensor, weights.tensor, scales.tensor
                    ),
                    input_types=types,
                    custom_extensions=[mojo_package(MOJO_PACKAGE)],
                )
            )

    def forward(x: TensorValue, weights: TensorValue) -> TensorValue:
        return x @ ops.transpose(weights, 0, 1)

    types = [
        TensorType(DType.float32, ["patches", "width"], HOST),
        TensorType(DType.float32, ["columns", "width"], HOST),
    ]
    return session.load(Graph("float32", forward, input_types=types))


def main() -> None:
    """Prints a line for each matrix and kernel; ratios compare the shortest times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    session = InferenceSession(devices=[CPU()])
    models = {
        name: compile_model(session, kernels) for name, kernels in INT8_KERNELS.items()
    }
    rng = np.random.default_rng(0)
    print(f"{'':31}{'min ms':>8}{'median':>8}{'Gop/s':>8}{'ratio':>7}")
    for width, columns in SHAPES:
        x = rng.normal(0, 1, (PATCHES, width)).astype(np.float32)
        weights = rng.normal(0, 1, (columns, width)).astype(np.float32)
        levels, scales = quantize_int8(weights)
        assert levels.shape == tiled_shape(columns, width)
        float32, int8 = (x, weights), (x, levels, scales)
        calls = {
            name: lambda m=model, i=float32 if INT8_KERNELS[name] == MAX else int8: (
                m.execute(*i)
            )
            for name, model in models.items()
        }
        times = time_calls(calls, rounds)
        base = min(times["MAX's"])
        for name, taken in times.items():
            least, median = min(taken), float(np.median(taken))
            print(
                f"{width:6} x {columns:5} {name:16}"
                f"{least * 1e3:8.1f}{median * 1e3:8.1f}"
                f"{2 * PATCHES * width * columns / least / 1e9:8.0f}"
                f"{base / least:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
