"""How fast rows meet matrices of bytes, beside MAX's product of floats.

``python -m benchmarks.kernels.int8_matmul`` times both in turn, for the matrices of a
vision layer at its published widths and the rows of a picture of four tiles.
"""

from __future__ import annotations

import argparse

import numpy as np
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

from benchmarks.kernels.interleaved import KERNELS, made_of, timed
from mllama.kernels.dispatch import MAX, mojo_package
from mllama.kernels.ops.int8_matmul import (
    MOJO_PACKAGE,
    int8_matmul,
    quantize_int8,
    tiled_shape,
)

SHAPES = ((1280, 1280), (1280, 5120), (5120, 1280))
"""Widths of inputs and outputs."""
ROWS = 6432
HOST = DeviceRef.CPU()


def compiled(session: InferenceSession, kernels: str) -> Model:
    """A product; its matrix is an input."""
    if kernels != MAX:
        types = [
            TensorType(DType.float32, ["rows", "width"], HOST),
            TensorType(DType.int8, ["tiles", "bytes"], HOST),
            TensorType(DType.float32, ["columns"], HOST),
        ]
        with made_of(kernels):
            return session.load(
                Graph(
                    f"bytes_{kernels}",
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
        TensorType(DType.float32, ["rows", "width"], HOST),
        TensorType(DType.float32, ["columns", "width"], HOST),
    ]
    return session.load(Graph("floats", forward, input_types=types))


def main() -> None:
    """Prints two lines for each matrix; ratios are of the least times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    session = InferenceSession(devices=[CPU()])
    models = {name: compiled(session, kernels) for name, kernels in KERNELS.items()}
    chance = np.random.default_rng(0)
    print(f"{'':28}{'min ms':>8}{'median':>8}{'Gop/s':>8}{'ratio':>7}")
    for width, columns in SHAPES:
        x = chance.normal(0, 1, (ROWS, width)).astype(np.float32)
        weights = chance.normal(0, 1, (columns, width)).astype(np.float32)
        levels, scales = quantize_int8(weights)
        assert levels.shape == tiled_shape(columns, width)
        floats, in_bytes = (x, weights), (x, levels, scales)
        calls = {
            name: lambda m=model, i=floats if KERNELS[name] == MAX else in_bytes: (
                m.execute(*i)
            )
            for name, model in models.items()
        }
        times = timed(calls, rounds)
        base = min(times["MAX's"])
        for name, taken in times.items():
            least, median = min(taken), float(np.median(taken))
            print(
                f"{width:6} x {columns:5} {name:13}"
                f"{least * 1e3:8.1f}{median * 1e3:8.1f}"
                f"{2 * ROWS * width * columns / least / 1e9:8.0f}{base / least:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
