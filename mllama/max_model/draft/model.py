"""Runs the draft model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import Buffer, Device
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef
from max.nn.kv_cache import MHAKVCacheParams

from mllama.compilation.lazy_graph import LazyGraphSpec
from mllama.config.rope import rotary_table
from mllama.max_compat.lazy_buffer import LazilyCommittedBuffer
from mllama.max_compat.model import (
    KVCacheInputsPerDevice,
    compile_graphs,
    init_graphs,
    padded_lut_cols,
    page_stride_of,
)
from mllama.max_model.draft.cache import DraftCacheManager, Tokens
from mllama.max_model.draft.graph import (
    DRAFT_DECODER,
    activation_dtype,
    draft_graph_spec,
    draft_kv_params,
)
from mllama.max_model.draft.settings import DraftSettings
from mllama.max_model.draft.weights import draft_state_dict
from mllama.max_model.host_buffers import on_host
from mllama.utils.bfloat16 import to_bfloat16


@dataclass(frozen=True)
class DraftRow:
    """What a step computes of a request.

    Attributes:
        tokens: Its new tokens, at least one.
        cached: Number of its tokens before them, which are in the cache.
        pages: The pages of all of them.
    """

    tokens: Tokens
    cached: int
    pages: Sequence[int]


class DraftModel:
    """A loaded draft model and its KV cache, on one device.

    Args:
        graph: The loaded graph.
        params: The KV cache.
        device: The device of both.
        freqs_cis: The rotary table, on the device.
        num_pages: Number of pages of the KV cache.
        vocabulary: Number of the model's tokens.

    Attributes:
        cache: Divides the pages among requests.
        vocabulary: Number of the model's tokens.
        max_length: Tokens of the longest sequence that it can continue.
    """

    def __init__(
        self,
        graph: Model,
        params: MHAKVCacheParams,
        device: Device,
        freqs_cis: Buffer,
        num_pages: int,
        vocabulary: int,
    ) -> None:
        self._graph = graph
        self._params = params
        self._device = device
        self._freqs_cis = freqs_cis
        self._pages = LazilyCommittedBuffer.zeros(
            (num_pages, *params.shape_per_block), params.dtype, device
        )
        # A device fills the buffer asynchronously.
        device.synchronize()
        self.cache = DraftCacheManager(num_pages, params.page_size)
        self.vocabulary = vocabulary
        self.max_length = int(freqs_cis.shape[0])

    @classmethod
    def load(
        cls,
        settings: DraftSettings,
        session: InferenceSession,
        device: Device,
        *,
        num_pages: int,
        max_length: int,
    ) -> DraftModel:
        """Loads the model; its graph is compiled unless it is saved or cached.

        Args:
            settings: Names its files.
            session: Compiles and loads the graph.
            device: The device to run it on.
            num_pages: Number of pages of its KV cache.
            max_length: Tokens of the longest sequence of the model that it guesses for.

        Raises:
            CheckpointError: If a file is damaged or of another model.
        """
        config = settings.config
        dtype = activation_dtype(settings.encoding)
        params = draft_kv_params(config, dtype, DeviceRef.from_device(device))
        specs = draft_graph_specs(settings, params)
        graph = init_graphs(session, compile_graphs(session, specs), specs)
        text = config.text_config
        table = rotary_table(text, min(max_length, text.max_position_embeddings))
        if dtype is DType.bfloat16:
            host = Buffer.from_numpy(to_bfloat16(table)).view(dtype)
        else:
            host = Buffer.from_numpy(table)
        return cls(
            graph[DRAFT_DECODER],
            params,
            device,
            host.to(device),
            num_pages,
            text.vocab_size,
        )

    def next_tokens(self, rows: Sequence[DraftRow]) -> Tokens:
        """Computes new tokens of requests and returns the likeliest after each.

        Args:
            rows: What to compute of each request, at least one.

        Returns:
            int64 ``[rows]``, the token that follows the last new one.
        """
        return np.argmax(self.logits(rows), axis=-1)

    def logits(self, rows: Sequence[DraftRow]) -> npt.NDArray[np.float32]:
        """Computes new tokens of requests and returns the logits after the last one.

        Args:
            rows: What to compute of each request, at least one.

        Returns:
            float32 ``[rows, vocabulary]``.
        """
        lengths = np.array([len(row.tokens) for row in rows])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)
        (logits,) = self._graph.execute(
            self._upload(np.concatenate([row.tokens for row in rows])),
            self._upload(offsets),
            self._upload(offsets[1:].astype(np.int64) - 1),
            *tree.leaves(self._cache_inputs(rows)),
            self._freqs_cis,
        )
        return on_host(logits)

    def _cache_inputs(
        self, rows: Sequence[DraftRow]
    ) -> KVCacheInputsPerDevice[Buffer, Buffer]:
        longest = max(len(row.tokens) for row in rows)
        most = max(row.cached + len(row.tokens) for row in rows)
        columns = padded_lut_cols(-(-most // self._params.page_size))
        table = np.zeros((len(rows), columns), np.uint32)
        for entries, row in zip(table, rows, strict=True):
            pages = row.pages[:columns]
            entries[: len(pages)] = pages
        key = self._params.resolve_attn_key(len(rows), longest, most)
        return KVCacheInputsPerDevice(
            kv_blocks=self._pages,
            cache_lengths=self._upload(np.array([r.cached for r in rows], np.uint32)),
            lookup_table=self._upload(table),
            max_prompt_length=_host(longest, np.uint32),
            max_cache_length=_host(most, np.uint32),
            page_stride=_host(page_stride_of(self._pages), np.int64),
            attention_dispatch_metadata=key.pack_into_buffer(self._device, most),
        )

    def _upload(self, array: npt.NDArray[Any]) -> Buffer:
        return Buffer.from_numpy(array).to(self._device)


def draft_graph_specs(
    settings: DraftSettings, params: MHAKVCacheParams
) -> dict[str, LazyGraphSpec]:
    """Returns the draft model's graph by its name, with its weights, not yet traced.

    Args:
        settings: Names the model's files.
        params: Its KV cache.

    Raises:
        CheckpointError: If a file is damaged or of another model.
    """
    config = settings.config
    weights = draft_state_dict(settings, config, params.dtype)
    return {DRAFT_DECODER: draft_graph_spec(config, params, weights)}


def _host(value: int, dtype: type[np.integer[Any]]) -> Buffer:
    """Returns a number as a buffer ``[1]`` on the host."""
    return Buffer.from_numpy(np.array([value], dtype=dtype))
