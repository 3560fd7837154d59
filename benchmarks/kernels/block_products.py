"""How fast activations meet GGUF blocks, own operation and MAX's.

``python -m benchmarks.kernels.block_products`` times both, one after the other in each
round, for the matrices of a text layer at its published widths.  Bytes are those of the
blocks, read once; no matrix is met twice in a row, so that none is still in a cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops
from max.graph.quantization import QuantizationEncoding

from mllama.kernels.block_products import OPERATIONS, product
from mllama.kernels.choice import operations
from mllama.network.projections import block_weight

SHAPES = ((4096, 14336), (14336, 4096), (4096, 4096))
"""Widths of inputs and outputs."""
ROWS = (1, 4, 8, 64, 512)
ENCODINGS = (
    QuantizationEncoding.Q4_0,
    QuantizationEncoding.Q4_K,
    QuantizationEncoding.Q6_K,
)


def random_weights(encoding: QuantizationEncoding) -> dict[str, np.ndarray]:
    """Blocks whose float16 are all about 0.03: no bit of them is infinity's."""
    rng = np.random.default_rng(0)
    weights = {}
    for index, (width, columns) in enumerate(SHAPES):
        row_bytes = width // encoding.elements_per_block * encoding.block_size
        weights[f"weight_{index}"] = rng.integers(
            0, 0x29, (columns, row_bytes), dtype=np.uint8
        )
    return weights


def compiled(
    session: InferenceSession,
    encoding: QuantizationEncoding,
    weights: dict[str, np.ndarray],
    *,
    own: bool,
) -> Model:
    """Products with a matrix of each shape, each with rows of its own."""
    cpu = DeviceRef.CPU()

    def forward(*inputs: TensorValue) -> tuple[TensorValue, ...]:
        results = []
        for index, (x, (width, columns)) in enumerate(zip(inputs, SHAPES, strict=True)):
            weight = block_weight(f"weight_{index}", columns, width, encoding, cpu)
            if own:
                results.append(product(x.tensor, weight))
            else:
                results.append(
                    ops.qmatmul(encoding, None, x.tensor, TensorValue(weight))
                )
        return tuple(results)

    graph = Graph(
        f"block_products_{'own' if own else 'max'}_{encoding.name}",
        forward,
        input_types=[
            TensorType(DType.float32, (f"rows_{index}", width), cpu)
            for index, (width, _) in enumerate(SHAPES)
        ],
        custom_extensions=[operations(OPERATIONS)] if own else [],
    )
    return session.load(graph, weights_registry=weights)


def seconds(model: Model, shape: int, rows: int) -> float:
    """Of one product; those with the other matrices have no rows."""
    rng = np.random.default_rng(rows)
    inputs = [
        Buffer.from_numpy(
            rng.normal(0, 1, (rows if index == shape else 0, width)).astype(np.float32)
        )
        for index, (width, _) in enumerate(SHAPES)
    ]
    start = time.perf_counter()
    model.execute(*inputs)
    return time.perf_counter() - start


def described(
    name: str, times: dict[bool, list[float]], size: int, operations: int
) -> str:
    """A line: the best and the median of both, and how many times faster ours is."""
    best = {own: min(values) for own, values in times.items()}
    middle = {own: statistics.median(values) for own, values in times.items()}
    speeds = "   ".join(
        f"{label} {best[own] * 1e3:8.2f} ms {size / best[own] / 1e9:5.1f} GB/s "
        f"{operations / best[own] / 1e9:5.0f} GFLOP/s"
        for label, own in (("own", True), ("max", False))
    )
    return (
        f"{name}   {speeds}   ratio {best[False] / best[True]:.2f}, "
        f"of medians {middle[False] / middle[True]:.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--encoding", choices=[each.name.lower() for each in ENCODINGS], default=None
    )
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    options = parser.parse_args(arguments)
    session = InferenceSession(devices=[CPU()])
    for encoding in ENCODINGS:
        if options.encoding not in (None, encoding.name.lower()):
            continue
        weights = random_weights(encoding)
        models = {
            own: compiled(session, encoding, weights, own=own) for own in (True, False)
        }
        times: dict[tuple[int, int], dict[bool, list[float]]] = {}
        for _ in range(options.rounds + 1):
            for rows in options.rows:
                for shape in range(len(SHAPES)):
                    both = times.setdefault((shape, rows), {True: [], False: []})
                    for own, model in models.items():
                        both[own].append(seconds(model, shape, rows))
        for (shape, rows), both in times.items():
            width, columns = SHAPES[shape]
            print(
                described(
                    f"{encoding.name.lower()} {width:5} -> {columns:5} {rows:4} rows",
                    # The first round warms up.
                    {own: values[1:] for own, values in both.items()},
                    weights[f"weight_{shape}"].nbytes,
                    2 * rows * width * columns,
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
