"""Times attention to a cached image: the custom op and MAX's.

``python -m benchmarks.kernels.image_attention`` times them in turn, at the published
heads (32 of 128 dimensions, 8 KV heads), for each data type of the image cache.  Each
round reads another of several layers, as a model does, so that the CPU's caches don't
hold what it reads.  Bytes count keys and values once; MAX's time lacks the norm of the
queries.  ``--keys`` and ``--batch`` choose some of the shapes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from max import tree
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue
from max.nn.attention.mask_config import MHAMaskVariant
from max.nn.kernels import cross_attention_ragged
from max.nn.kv_cache import MHAKVCacheParams

from benchmarks.kernels.timing import KERNELS, time_calls, use_kernels
from mllama.image_cache.storage import ImageCacheStorage, ReadSegment
from mllama.kernels.dispatch import MAX, mojo_package
from mllama.kernels.ops.attention import (
    MOJO_PACKAGE,
    PAGE_SIZE,
    image_attention,
    stored_head_dim,
)
from mllama.nn.layers.image_cache_inputs import ImageReadValues, image_read_types

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
LAYERS = 4
KEYS = (1601, 6404)
BATCHES = {
    "1 token": [1],
    "8 requests": [1] * 8,
    "8 pictures": [1] * 8,
    "5 tokens": [5],
    "9 tokens": [9],
    "176 tokens": [176],
}
"""Query tokens of each segment.  They read the same picture, but for 8 pictures."""
DTYPES = (DType.float32, DType.bfloat16, DType.int8)


def cache_params(dtype: DType) -> MHAKVCacheParams:
    """Returns the parameters of an image cache with several layers."""
    return MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=KV_HEADS,
        head_dim=stored_head_dim(HEAD_DIM, dtype),
        num_layers=LAYERS,
        page_size=PAGE_SIZE,
        devices=[DeviceRef.CPU()],
    )


def compile_model(session: InferenceSession, dtype: DType, kernels: str) -> Model:
    """Compiles a graph of the attention alone."""
    cpu = DeviceRef.CPU()
    params = cache_params(dtype)
    (reads,) = image_read_types(params)
    _, structure = tree.flatten(reads)

    def forward(query: Any, norm: Any, layer: Any, *inputs: Any) -> TensorValue:
        read: ImageReadValues = tree.unflatten(structure, iter(inputs))
        if kernels != MAX:
            return image_attention(
                query.tensor,
                norm.tensor,
                read.pages.kv_blocks,
                layer.tensor,
                table=read.pages.lookup_table,
                segment_offsets=read.segment_offsets,
                image_offsets=read.image_offsets,
                epsilon=1e-5,
            )
        return cross_attention_ragged(
            params,
            query.tensor,
            read.segment_offsets,
            read.pages,
            layer.tensor,
            MHAMaskVariant.NULL_MASK,
            read.image_offsets,
            read.max_segment_length,
            scale=HEAD_DIM**-0.5,
        )

    with use_kernels(kernels):
        graph = Graph(
            f"attention_{kernels}_{dtype.name}",
            forward,
            input_types=[
                TensorType(DType.float32, ["total_seq_len", HEADS, HEAD_DIM], cpu),
                TensorType(DType.float32, [HEAD_DIM], cpu),
                TensorType(DType.uint32, [], cpu),
                *tree.leaves(reads),
            ],
            custom_extensions=[] if kernels == MAX else [mojo_package(MOJO_PACKAGE)],
        )
    return session.load(graph)


def fill(blocks: Buffer, rng: np.random.Generator) -> None:
    """Fills pages with random keys and values of a standard deviation of about 1."""
    for index in range(blocks.shape[0]):
        page = blocks[index : index + 1, :, :, :, :, :]
        if blocks.dtype is DType.int8:
            content = page.to_numpy()
            content[..., :HEAD_DIM] = rng.integers(-127, 128, (HEAD_DIM,), np.int8)
            content[..., HEAD_DIM:] = np.array([1 / 73], np.float32).view(np.int8)
            continue
        noise = rng.normal(0, 1, page.shape).astype(np.float32).view(np.uint32)
        if blocks.dtype is DType.bfloat16:
            view = page.view(DType.uint16, page.shape).to_numpy()
            view[...] = noise >> 16
        else:
            page.view(DType.uint32, page.shape).to_numpy()[...] = noise


def pictures_of(batch: str) -> int:
    """Returns the number of pictures that a batch reads."""
    return len(BATCHES[batch]) if batch == "8 pictures" else 1


def make_call(model: Model, dtype: DType, keys: int, batch: str) -> Callable:
    """Returns a call of a graph with random queries, keys and values."""
    rng = np.random.default_rng(0)
    lengths = BATCHES[batch]
    pictures = pictures_of(batch)
    store = ImageCacheStorage(
        cache_params(dtype), [CPU()], pictures * -(-keys // PAGE_SIZE) + 1
    )
    store.blocks.reserve("request", {(n,): (keys,) for n in range(pictures)})
    entries = [store.blocks.pinned("request", (n,)) for n in range(pictures)]
    (read,) = store.read_inputs(
        [ReadSegment(n, entries[i % pictures], keys) for i, n in enumerate(lengths)]
    )
    fill(read.pages.kv_blocks, rng)
    query = rng.normal(0, 1, (sum(lengths), HEADS, HEAD_DIM)).astype(np.float32)
    inputs = cycle(
        [
            Buffer.from_numpy(query),
            Buffer.from_numpy(np.ones(HEAD_DIM, np.float32)),
            Buffer.scalar(layer, DType.uint32),
            *tree.leaves(read),
        ]
        for layer in range(LAYERS)
    )
    return lambda: model.execute(*next(inputs))


def main() -> None:
    """Prints a line for each shape and kernel; ratios compare the shortest times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keys", type=int, nargs="+", default=KEYS)
    parser.add_argument("--batch", choices=BATCHES, nargs="+", default=list(BATCHES))
    options = parser.parse_args()
    session = InferenceSession(devices=[CPU()])
    variants = {
        f"{name}, {dtype.name}": (dtype, kernels)
        for name, kernels in KERNELS.items()
        for dtype in DTYPES
        if kernels != MAX or dtype is DType.float32
    }
    models = {
        name: compile_model(session, dtype, kernels)
        for name, (dtype, kernels) in variants.items()
    }
    print(f"{'':47}{'min ms':>8}{'median':>8}{'GB/s':>7}{'GFLOP/s':>9}{'ratio':>7}")
    for keys in options.keys:
        for batch in options.batch:
            calls = {
                name: make_call(models[name], dtype, keys, batch)
                for name, (dtype, _) in variants.items()
            }
            times = time_calls(calls, options.rounds)
            base = min(times["MAX's, float32"])
            for name, (dtype, _) in variants.items():
                least, median = min(times[name]), float(np.median(times[name]))
                width = stored_head_dim(HEAD_DIM, dtype) * dtype.size_in_bytes
                size = 2 * pictures_of(batch) * keys * KV_HEADS * width
                work = 4 * sum(BATCHES[batch]) * HEADS * HEAD_DIM * keys
                print(
                    f"{keys} keys, {batch:10} {name:26}{least * 1e3:8.2f}"
                    f"{median * 1e3:8.2f}{size / least / 1e9:7.1f}"
                    f"{work / least / 1e9:9.0f}{base / least:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
