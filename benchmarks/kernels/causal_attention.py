"""Times attention to the KV cache: the custom op and MAX's.

``python -m benchmarks.kernels.causal_attention`` times them in turn, at the published
heads (32 of 128 dimensions, 8 KV heads), the custom op also with a KV cache in bfloat16
and int8, which models don't have.  Bytes count keys and values once; operations count
the pairs that the causal mask leaves.  ``--case`` chooses some of the cases.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from max import tree
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, TensorType, TensorValue
from max.nn.attention.mask_config import MHAMaskVariant
from max.nn.kernels import flash_attention_ragged
from max.nn.kv_cache import MHAKVCacheParams

from benchmarks.kernels.image_attention import DTYPES, fill
from benchmarks.kernels.timing import KERNELS, time_calls, use_kernels
from mllama.kernels.dispatch import MAX, mojo_package
from mllama.kernels.ops.attention import (
    MOJO_PACKAGE,
    PAGE_SIZE,
    causal_attention,
    stored_head_dim,
)
from mllama.max_compat.model import KVCacheInputsPerDevice, page_stride_of

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
CASES = {
    "1 token after 511": (1, [511]),
    "1 token after 2047": (1, [2047]),
    "1 token after 8191": (1, [8191]),
    "8 requests after 511": (1, [511] * 8),
    "prompt of 176": (176, [0]),
    "prompt of 512": (512, [0]),
    "512 tokens after 2048": (512, [2048]),
}
"""New tokens of each request, and the tokens that each has in the cache already."""


def cache_params(dtype: DType) -> MHAKVCacheParams:
    """Returns the parameters of a KV cache with one layer."""
    return MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=KV_HEADS,
        head_dim=stored_head_dim(HEAD_DIM, dtype),
        num_layers=1,
        page_size=PAGE_SIZE,
        devices=[DeviceRef.CPU()],
    )


def compile_model(session: InferenceSession, kernels: str, dtype: DType) -> Model:
    """Compiles a graph of the attention alone."""
    cpu = DeviceRef.CPU()
    params = cache_params(dtype)
    (cache,) = params.get_symbolic_inputs()
    leaves, structure = tree.flatten(cache)

    def forward(query: Any, offsets: Any, layer: Any, *inputs: Any) -> TensorValue:
        collection = tree.unflatten(structure, iter(inputs))
        if kernels != MAX:
            return causal_attention(
                query.tensor,
                collection.kv_blocks,
                layer.tensor,
                table=collection.lookup_table,
                token_offsets=offsets.tensor,
                cache_lengths=collection.cache_lengths,
            )
        return flash_attention_ragged(
            params,
            input=query.tensor,
            kv_collection=collection,
            layer_idx=layer.tensor,
            input_row_offsets=offsets.tensor,
            mask_variant=MHAMaskVariant.CAUSAL_MASK,
            scale=HEAD_DIM**-0.5,
        )

    with use_kernels(kernels):
        graph = Graph(
            f"causal_attention_{kernels}_{dtype.name}",
            forward,
            input_types=[
                TensorType(DType.float32, ["total_seq_len", HEADS, HEAD_DIM], cpu),
                TensorType(DType.uint32, ["input_row_offsets_len"], cpu),
                TensorType(DType.uint32, [], cpu),
                *leaves,
            ],
            custom_extensions=[] if kernels == MAX else [mojo_package(MOJO_PACKAGE)],
        )
    return session.load(graph)


def make_call(
    model: Model, dtype: DType, tokens: int, cached: list[int]
) -> Callable[[], object]:
    """Returns a call of a graph with random queries, keys and values.

    Args:
        model: The compiled graph.
        dtype: Data type of the KV cache.
        tokens: New tokens of each request.
        cached: Tokens that each request has in the cache.
    """
    rng = np.random.default_rng(0)
    pages = [-(-(length + tokens) // PAGE_SIZE) for length in cached]
    params = cache_params(dtype)
    blocks = Buffer.zeros((sum(pages), *params.shape_per_block), dtype)
    fill(blocks, rng)
    metadata = params.dispatch_metadata_spec().tensor_type(DeviceRef.CPU())
    table = np.zeros((len(cached), max(pages)), np.uint32)
    for row, count, end in zip(table, pages, np.cumsum(pages), strict=True):
        row[:count] = np.arange(end - count, end)
    cache = KVCacheInputsPerDevice(
        kv_blocks=blocks,
        cache_lengths=Buffer.from_numpy(np.array(cached, np.uint32)),
        lookup_table=Buffer.from_numpy(table),
        max_prompt_length=Buffer.from_numpy(np.array([tokens], np.uint32)),
        max_cache_length=Buffer.from_numpy(np.array([max(cached)], np.uint32)),
        page_stride=Buffer.from_numpy(np.array([page_stride_of(blocks)], np.int64)),
        # How a GPU would schedule the work; a CPU ignores it.
        attention_dispatch_metadata=Buffer.zeros(
            [int(dim) for dim in metadata.shape], metadata.dtype
        ),
    )
    query = rng.normal(0, 1, (tokens * len(cached), HEADS, HEAD_DIM))
    inputs = [
        Buffer.from_numpy(query.astype(np.float32)),
        Buffer.from_numpy(tokens * np.arange(len(cached) + 1, dtype=np.uint32)),
        Buffer.scalar(0, DType.uint32),
        *tree.leaves(cache),
    ]
    return lambda: model.execute(*inputs)


def main() -> None:
    """Prints a line for each case and kernel; ratios compare the shortest times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    options = parser.parse_args()
    session = InferenceSession(devices=[CPU()])
    variants = {
        f"{name}, {dtype.name}": (kernels, dtype)
        for name, kernels in KERNELS.items()
        for dtype in DTYPES
        if kernels != MAX or dtype is DType.float32
    }
    models = {
        name: compile_model(session, kernels, dtype)
        for name, (kernels, dtype) in variants.items()
    }
    print(f"{'':48}{'min ms':>8}{'median':>8}{'GB/s':>7}{'GFLOP/s':>9}{'ratio':>7}")
    for title in options.case:
        new, cached = CASES[title]
        calls = {
            name: make_call(models[name], dtype, new, cached)
            for name, (_, dtype) in variants.items()
        }
        times = time_calls(calls, options.rounds)
        pairs = sum(new * length + new * (new + 1) // 2 for length in cached)
        base = min(times["MAX's, float32"])
        for name, taken in times.items():
            dtype = variants[name][1]
            width = stored_head_dim(HEAD_DIM, dtype) * dtype.size_in_bytes
            size = 2 * KV_HEADS * width * sum(length + new for length in cached)
            least, median = min(taken), float(np.median(taken))
            print(
                f"{title:22}{name:26}{least * 1e3:8.2f}{median * 1e3:8.2f}"
                f"{size / least / 1e9:7.1f}"
                f"{4 * pairs * HEADS * HEAD_DIM / least / 1e9:9.0f}"
                f"{base / least:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
