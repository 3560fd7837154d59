"""How fast text rows attend to the KV cache, own operation and MAX's.

``python -m benchmarks.kernels.causal_attention`` times them in turn, at the published
heads (32 of 128 dimensions, 8 of keys and values).  Bytes are those of keys and values,
read once; operations those of the pairs that the mask leaves.
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

from benchmarks.kernels.interleaved import KERNELS, made_of, timed
from mllama.kernels.dispatch import MAX, mojo_package
from mllama.kernels.ops.attention import MOJO_PACKAGE, PAGE_SIZE, causal_attention
from mllama.max_compat.model import KVCacheInputsPerDevice

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
CASES = {
    "1 row after 511": (1, [511]),
    "1 row after 2047": (1, [2047]),
    "1 row after 8191": (1, [8191]),
    "8 streams after 511": (1, [511] * 8),
    "prompt of 176": (176, [0]),
    "prompt of 512": (512, [0]),
    "512 rows after 2048": (512, [2048]),
}
"""New rows of each request, and what each has in the cache already."""

PARAMS = MHAKVCacheParams(
    dtype=DType.float32,
    n_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    num_layers=1,
    page_size=PAGE_SIZE,
    devices=[DeviceRef.CPU()],
)


def compiled(session: InferenceSession, kernels: str) -> Model:
    """The operation alone: queries, where requests begin and the cache to rows."""
    cpu = DeviceRef.CPU()
    (cache,) = PARAMS.get_symbolic_inputs()
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
            PARAMS,
            input=query.tensor,
            kv_collection=collection,
            layer_idx=layer.tensor,
            input_row_offsets=offsets.tensor,
            mask_variant=MHAMaskVariant.CAUSAL_MASK,
            scale=HEAD_DIM**-0.5,
        )

    with made_of(kernels):
        graph = Graph(
            f"causal_attention_{kernels}",
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


def caller(model: Model, rows: int, cached: list[int]) -> Callable[[], object]:
    """A call of a graph on random queries, keys and values."""
    chance = np.random.default_rng(0)
    pages = [-(-(length + rows) // PAGE_SIZE) for length in cached]
    blocks = chance.normal(0, 1, (sum(pages), *PARAMS.shape_per_block))
    metadata = PARAMS.dispatch_metadata_spec().tensor_type(DeviceRef.CPU())
    table = np.zeros((len(cached), max(pages)), np.uint32)
    for row, count, end in zip(table, pages, np.cumsum(pages), strict=True):
        row[:count] = np.arange(end - count, end)
    cache = KVCacheInputsPerDevice(
        kv_blocks=Buffer.from_numpy(blocks.astype(np.float32)),
        cache_lengths=Buffer.from_numpy(np.array(cached, np.uint32)),
        lookup_table=Buffer.from_numpy(table),
        max_prompt_length=Buffer.from_numpy(np.array([rows], np.uint32)),
        max_cache_length=Buffer.from_numpy(np.array([max(cached)], np.uint32)),
        page_stride=Buffer.from_numpy(np.array([blocks[0].size], np.int64)),
        # How a GPU would share the work out; not read on a CPU.
        attention_dispatch_metadata=Buffer.zeros(
            [int(dim) for dim in metadata.shape], metadata.dtype
        ),
    )
    query = chance.normal(0, 1, (rows * len(cached), HEADS, HEAD_DIM))
    inputs = [
        Buffer.from_numpy(query.astype(np.float32)),
        Buffer.from_numpy(rows * np.arange(len(cached) + 1, dtype=np.uint32)),
        Buffer.scalar(0, DType.uint32),
        *tree.leaves(cache),
    ]
    return lambda: model.execute(*inputs)


def main() -> None:
    """Prints a line for each case and form; ratios are of the least times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    session = InferenceSession(devices=[CPU()])
    models = {name: compiled(session, kernels) for name, kernels in KERNELS.items()}
    print(f"{'':35}{'min ms':>8}{'median':>8}{'GB/s':>7}{'GFLOP/s':>9}{'ratio':>7}")
    for title, (new, cached) in CASES.items():
        calls = {name: caller(model, new, cached) for name, model in models.items()}
        times = timed(calls, rounds)
        size = 2 * 4 * KV_HEADS * HEAD_DIM * sum(length + new for length in cached)
        pairs = sum(new * length + new * (new + 1) // 2 for length in cached)
        base = min(times["MAX's"])
        for name, taken in times.items():
            least, median = min(taken), float(np.median(taken))
            print(
                f"{title:22}{name:13}{least * 1e3:8.2f}{median * 1e3:8.2f}"
                f"{size / least / 1e9:7.1f}"
                f"{4 * pairs * HEADS * HEAD_DIM / least / 1e9:9.0f}"
                f"{base / least:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
