"""Runs of the graph that returns the queries of cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import Buffer

from mllama.image_cache.encoder_runner import PendingImage
from mllama.max_compat.lazy_buffer import LazilyCommittedBuffer
from mllama.max_compat.model import (
    KVCacheInputsPerDevice,
    padded_lut_cols,
    page_stride_of,
)

CHUNK: int = 1024
"""Tokens of one run, at most; it bounds the memory of the activations."""


class QueryRunner:
    """Prefills a sequence in a KV cache of its own, and returns its queries.

    The KV cache of requests isn't touched: its pages may all be in use, and those of
    shared prefixes must stay as they are.

    Args:
        model: The ``MllamaModel``, on a CPU.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._graph = model.load_query_graph()
        self._params = model.kv_params

    def run(
        self, context: Any, tokens: npt.NDArray[np.int64], first: int
    ) -> npt.NDArray[np.float32]:
        """Computes the queries of a request's tokens.

        Images that the image cache lacks are encoded.

        Args:
            context: The request, whose images are reserved.
            tokens: int64 ``[tokens]``.
            first: Index of the first token whose queries are wanted.

        Returns:
            float32 ``[cross-attention layers, tokens from the first, heads, head
            dim]``, the queries after q_norm; zeros for tokens that attend to no image.
        """
        cache = _OwnCache(self._params, self._model.devices, len(tokens))
        queries = []
        for start in range(0, len(tokens), CHUNK):
            end = min(start + CHUNK, len(tokens))
            pending: list[PendingImage] = []
            reads = self._model.image_cache.plan_range(context, start, end, pending)
            self._model.image_encoder.store(pending)
            inputs = self._model.image_cache.storage.read_inputs(reads)
            outputs = self._graph.execute(
                Buffer.from_numpy(np.ascontiguousarray(tokens[start:end])),
                Buffer.from_numpy(np.array([0, end - start], np.uint32)),
                *tree.leaves(inputs),
                *tree.leaves(cache.inputs(start, end)),
                *self._model.text_constants,
            )
            if end > first:
                attending = inputs[0].attending.indices.to_numpy()
                of_chunk = _of_all_tokens(outputs, attending, end - start)
                queries.append(of_chunk[:, max(0, first - start) :])
        return np.concatenate(queries, axis=1)


def _of_all_tokens(
    outputs: Sequence[Buffer], attending: npt.NDArray[np.int64], tokens: int
) -> npt.NDArray[np.float32]:
    """Returns the queries of all tokens of a run, zeros where the graph has none.

    Args:
        outputs: The graph's; a CPU may stand in for several devices, each with some of
            the heads.
        attending: The tokens that the outputs are of.
        tokens: The run's tokens.
    """
    heads = np.concatenate([output.to_numpy() for output in outputs], axis=2)
    layers, _, *shape = heads.shape
    queries = np.zeros((layers, tokens, *shape), np.float32)
    queries[:, attending] = heads
    return queries


def cache_bytes(params: Any, length: int) -> int:
    """Returns the memory of the KV cache of a sequence.

    Args:
        params: MAX's parameters of the KV cache.
        length: The sequence's tokens.
    """
    pages = -(-length // params.page_size) + 1
    return int(pages * params.bytes_per_block)


class _OwnCache:
    """The KV cache of one sequence.

    Args:
        params: MAX's parameters of the KV cache.
        devices: The devices of the model.
        length: The sequence's tokens.
    """

    def __init__(self, params: Any, devices: Any, length: int) -> None:
        self._params = params
        self._devices = list(devices)
        pages = -(-length // params.page_size)
        # The kernels may read one page past the end of the table.
        self._blocks = [
            LazilyCommittedBuffer.zeros(
                (pages + 1, *params.shape_per_block), params.dtype, device
            )
            for device in self._devices
        ]
        self._table = np.full((1, padded_lut_cols(pages)), pages, np.uint32)
        self._table[0, :pages] = np.arange(pages)

    def inputs(
        self, start: int, end: int
    ) -> list[KVCacheInputsPerDevice[Buffer, Buffer]]:
        """Returns the graph's inputs for the tokens ``start .. end``."""
        key = self._params.resolve_attn_key(1, end - start, start)
        metadata = key.dispatch_metadata_buffers(
            None, name="", devices=self._devices, max_cache_valid_length=start
        )
        return [
            KVCacheInputsPerDevice(
                kv_blocks=blocks,
                cache_lengths=Buffer.from_numpy(np.array([start], np.uint32)),
                lookup_table=Buffer.from_numpy(self._table),
                max_prompt_length=Buffer.from_numpy(np.array([end - start], np.uint32)),
                max_cache_length=Buffer.from_numpy(np.array([start], np.uint32)),
                page_stride=Buffer.from_numpy(
                    np.array([page_stride_of(blocks)], np.int64)
                ),
                attention_dispatch_metadata=of_device,
            )
            for blocks, of_device in zip(self._blocks, metadata, strict=True)
        ]
