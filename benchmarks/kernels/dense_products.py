"""How fast the vision side's matrices are multiplied, own operation and MAX's.

``python -m benchmarks.kernels.dense_products`` times both in turn at the published
widths: rows of an image of four tiles, or of so many as asked for.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

from benchmarks.kernels.interleaved import HEADER, report
from mllama.kernels.choice import operations
from mllama.network.dense import OPERATIONS, dense_product

SHAPES = {
    "q, k, v, o": (6432, 1280, 1280, False),
    "fc1 and GELU": (6432, 1280, 5120, True),
    "fc2": (6432, 5120, 1280, False),
    "keys, values": (6404, 4096, 1024, False),
    "projector": (6404, 7680, 4096, False),
}
"""Rows, terms of a sum, columns, and whether GELU follows."""


def compiled(
    session: InferenceSession, depth: int, columns: int, *, gelu: bool
) -> Model:
    """Both operations; the one that gets no rows has nothing to do."""
    cpu, floats = DeviceRef.CPU(), DType.float32

    def forward(*inputs: Any) -> tuple[TensorValue, TensorValue]:
        left, right, weight, bias = (value.tensor for value in inputs)
        theirs = left @ weight.T + bias
        return (
            ops.gelu(theirs) if gelu else theirs,
            dense_product(right, weight, bias, gelu=gelu),
        )

    graph = Graph(
        f"products_{depth}_{columns}",
        forward,
        input_types=[
            TensorType(floats, ["max_rows", depth], cpu),
            TensorType(floats, ["own_rows", depth], cpu),
            TensorType(floats, [columns, depth], cpu),
            TensorType(floats, [columns], cpu),
        ],
        custom_extensions=[operations(OPERATIONS)],
    )
    return session.load(graph)


def main() -> None:
    """Prints two lines for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, help="instead of four tiles'")
    options = parser.parse_args()
    session = InferenceSession(devices=[CPU()])
    chance = np.random.default_rng(0)
    print(HEADER)
    for title, (rows, depth, columns, gelu) in SHAPES.items():
        rows = options.rows or rows
        model = compiled(session, depth, columns, gelu=gelu)
        x, none, weight, bias = (
            chance.normal(0, 1, shape).astype(np.float32)
            for shape in [(rows, depth), (0, depth), (columns, depth), (columns,)]
        )
        calls = {
            "MAX's": lambda m=model, i=(x, none, weight, bias): m.execute(*i),
            "own": lambda m=model, i=(none, x, weight, bias): m.execute(*i),
        }
        work = 2e-9 * rows * depth * columns
        report(f"{title} {rows}x{depth}x{columns}", calls, work, options.rounds)


if __name__ == "__main__":
    main()
