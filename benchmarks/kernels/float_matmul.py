"""Times linear layers in float32: the custom op that all share, and MAX's.

``python -m benchmarks.kernels.float_matmul`` times them in turn, for the vision layers
at their published widths and the patches of an image of four tiles.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

from mllama.kernels.dispatch import mojo_package
from mllama.kernels.ops.float_matmul import MOJO_PACKAGE, float_matmul

SHAPES = {
    "fc1 with GELU": (1280, 5120, True, True),
    "fc2": (5120, 1280, True, False),
    "q_proj": (1280, 1280, False, False),
    "projector": (7680, 4096, True, False),
}
"""Input width, output width, bias, GELU."""
PATCHES = (6432, 1608)
ROUNDS = 7


def compile_model(session: InferenceSession, *, is_custom: bool) -> Model:
    """Compiles a graph of all layers, with the custom op or MAX's."""
    cpu = DeviceRef.CPU()
    types = []
    for width, columns, _, _ in SHAPES.values():
        types += [
            TensorType(DType.float32, [f"tokens_{len(types)}", width], cpu),
            TensorType(DType.float32, [columns, width], cpu),
            TensorType(DType.float32, [columns], cpu),
        ]
    types.append(TensorType(DType.int64, [1], cpu))

    def forward(*inputs: TensorValue) -> list[TensorValue]:
        results = []
        for index, (_, _, has_bias, has_gelu) in enumerate(SHAPES.values()):
            x, weights, bias = (each.tensor for each in inputs[3 * index :][:3])
            if is_custom:
                result = float_matmul(
                    x, weights, bias if has_bias else None, has_gelu=has_gelu
                )
            else:
                result = x @ ops.transpose(weights, 0, 1)
                result = result + bias if has_bias else result
                result = ops.gelu(result) if has_gelu else result
            results.append(result)
        return results

    extensions = [mojo_package(MOJO_PACKAGE)] if is_custom else []
    graph = Graph(
        "float_matmul", forward, input_types=types, custom_extensions=extensions
    )
    start = time.process_time()
    model = session.load(graph)
    print(
        f"{'custom' if is_custom else 'MAX'}: compiled in "
        f"{time.process_time() - start:.1f} s of CPU time"
    )
    return model


def main() -> None:
    """Prints the median time of each layer, and the ratio."""
    session = InferenceSession(devices=[CPU()])
    models = {
        name: compile_model(session, is_custom=name == "custom")
        for name in ("custom", "MAX")
    }
    generator = np.random.default_rng(0)
    for patches in PATCHES:
        for layer in SHAPES:
            inputs = []
            for name, (width, columns, _, _) in SHAPES.items():
                tokens = patches if name == layer else 1
                inputs += [
                    Buffer.from_numpy(
                        generator.standard_normal(shape, np.float32) * scale
                    )
                    for shape, scale in (
                        ((tokens, width), 1),
                        ((columns, width), width**-0.5),
                        ((columns,), 1),
                    )
                ]
            inputs.append(Buffer.from_numpy(np.zeros(1, np.int64)))
            times: dict[str, list[float]] = {"custom": [], "MAX": []}
            results = {}
            for _ in range(ROUNDS):
                for name, model in models.items():
                    start = time.perf_counter()
                    results[name] = model.execute(*inputs)
                    times[name].append(time.perf_counter() - start)
            difference = max(
                float(np.abs(a.to_numpy() - b.to_numpy()).max())
                for a, b in zip(results["custom"], results["MAX"], strict=True)
            )
            custom, theirs = (statistics.median(times[n]) for n in ("custom", "MAX"))
            ratio = statistics.median(
                a / b for a, b in zip(times["custom"], times["MAX"], strict=True)
            )
            print(
                f"{patches} patches, {layer}: custom {custom * 1e3:.1f} ms, MAX "
                f"{theirs * 1e3:.1f} ms, ratio {ratio:.3f}, "
                f"largest difference {difference:.1e}"
            )


if __name__ == "__main__":
    main()
