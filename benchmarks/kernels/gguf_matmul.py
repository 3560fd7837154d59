"""Times the GGUF matmul: the custom op in each form, and MAX's.

``python -m benchmarks.kernels.gguf_matmul`` times them in turn, for the matrices of a
text layer at their published widths.  Bytes count the GGUF blocks once; no matrix is
used twice in a row, so that none is still in a cache.
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

from benchmarks.kernels.timing import INT8_KERNELS, use_kernels
from mllama.kernels.dispatch import MAX, mojo_package
from mllama.kernels.ops.gguf_matmul import MOJO_PACKAGE, gguf_matmul
from mllama.nn.layers.linear import gguf_weight

SHAPES = ((4096, 14336), (14336, 4096), (4096, 4096))
"""Input and output widths."""
TOKENS = (1, 4, 8, 64, 512)
ENCODINGS = (
    QuantizationEncoding.Q4_0,
    QuantizationEncoding.Q4_K,
    QuantizationEncoding.Q6_K,
)


def random_weights(encoding: QuantizationEncoding) -> dict[str, np.ndarray]:
    """Returns GGUF blocks whose float16 scales are all about 0.03, never infinite."""
    rng = np.random.default_rng(0)
    weights = {}
    for index, (width, columns) in enumerate(SHAPES):
        row_bytes = width // encoding.elements_per_block * encoding.block_size
        weights[f"weight_{index}"] = rng.integers(
            0, 0x29, (columns, row_bytes), dtype=np.uint8
        )
    return weights


def compile_model(
    session: InferenceSession,
    encoding: QuantizationEncoding,
    weights: dict[str, np.ndarray],
    kernels: str,
) -> Model:
    """Compiles a graph of one product with a matrix of each shape.

    Args:
        session: Compiles the graph.
        encoding: GGUF encoding of the matrices.
        weights: The matrices, by name.
        kernels: A value of the environment variable.
    """
    cpu = DeviceRef.CPU()

    def forward(*inputs: TensorValue) -> tuple[TensorValue, ...]:
        results = []
        for index, (x, (width, columns)) in enumerate(zip(inputs, SHAPES, strict=True)):
            weight = gguf_weight(f"weight_{index}", columns, width, encoding, cpu)
            if kernels != MAX:
                results.append(gguf_matmul(x.tensor, weight))
            else:
                results.append(
                    ops.qmatmul(encoding, None, x.tensor, TensorValue(weight))
                )
        return tuple(results)

    with use_kernels(kernels):
        graph = Graph(
            f"gguf_matmul_{kernels}_{encoding.name}",
            forward,
            input_types=[
                TensorType(DType.float32, (f"tokens_{index}", width), cpu)
                for index, (width, _) in enumerate(SHAPES)
            ],
            custom_extensions=[mojo_package(MOJO_PACKAGE)] if kernels != MAX else [],
        )
    return session.load(graph, weights_registry=weights)


def seconds(model: Model, shape: int, tokens: int) -> float:
    """Returns the seconds of one product; the other products get no tokens."""
    rng = np.random.default_rng(tokens)
    inputs = [
        Buffer.from_numpy(
            rng.normal(0, 1, (tokens if index == shape else 0, width)).astype(
                np.float32
            )
        )
        for index, (width, _) in enumerate(SHAPES)
    ]
    start = time.perf_counter()
    model.execute(*inputs)
    return time.perf_counter() - start


def format_line(
    name: str, times: dict[str, list[float]], size: int, operations: int
) -> str:
    """Formats the shortest times, and the speed of the first kernels beside others'."""
    best = {kernels: min(values) for kernels, values in times.items()}
    median = {kernels: statistics.median(values) for kernels, values in times.items()}
    first, *others = times
    speeds = "   ".join(
        f"{kernels} {least * 1e3:8.2f} ms {size / least / 1e9:5.1f} GB/s "
        f"{operations / least / 1e9:5.0f} GFLOP/s"
        for kernels, least in best.items()
    )
    ratios = ", ".join(
        f"{best[other] / best[first]:.2f} of {other} "
        f"({median[other] / median[first]:.2f} of medians)"
        for other in others
    )
    return f"{name}   {speeds}   speed {ratios}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each encoding, shape and number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--encoding", choices=[each.name.lower() for each in ENCODINGS], default=None
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    options = parser.parse_args(arguments)
    # The form that this CPU gets by itself comes first.
    contenders = list(reversed(INT8_KERNELS.values()))
    session = InferenceSession(devices=[CPU()])
    for encoding in ENCODINGS:
        if options.encoding not in (None, encoding.name.lower()):
            continue
        weights = random_weights(encoding)
        models = {
            # Each graph has its own copy of the matrices, so that none is cached.
            kernels: compile_model(
                session,
                encoding,
                {name: blocks.copy() for name, blocks in weights.items()},
                kernels,
            )
            for kernels in contenders
        }
        times: dict[tuple[int, int], dict[str, list[float]]] = {}
        for turn in range(options.rounds + 1):
            for tokens in options.tokens:
                for shape in range(len(SHAPES)):
                    each = times.setdefault(
                        (shape, tokens), {kernels: [] for kernels in models}
                    )
                    # Running first may be an advantage, so all take turns.
                    for place in range(len(contenders)):
                        kernels = contenders[(turn + place) % len(contenders)]
                        each[kernels].append(seconds(models[kernels], shape, tokens))
        for (shape, tokens), each in times.items():
            width, columns = SHAPES[shape]
            print(
                format_line(
                    f"{encoding.name.lower()} {width:5} -> {columns:5} "
                    f"{tokens:4} tokens",
                    # The first round warms up.
                    {kernels: values[1:] for kernels, values in each.items()},
                    weights[f"weight_{shape}"].nbytes,
                    2 * tokens * width * columns,
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
