"""The root of the queries graph: from tokens and cached images to the queries of
cross-attention, from which attention maps are computed.

It is the text graph without the head.  It runs only where maps are asked for, so that
the text graph stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorType, TensorValue, ops
from max.nn.kv_cache import KVCacheParamInterface, MHAKVCacheParams

from mllama.config import MllamaConfig
from mllama.kernels.ops import attention, gguf_matmul
from mllama.max_compat.model import PagedCacheValues
from mllama.nn.layers.graph_module import GraphModule
from mllama.nn.layers.image_cache_inputs import ImageReadValues, image_read_types
from mllama.nn.layers.linear import Encodings
from mllama.nn.layers.tensor_parallel import broadcast, signal_types
from mllama.nn.text.cross_attention import (
    MllamaCrossAttentionDecoderLayer,
    computed_tokens,
)
from mllama.nn.text_decoder import MllamaTextModel


class QueryReturningLayer(MllamaCrossAttentionDecoderLayer):
    """A cross-attention layer that returns its queries too."""

    def __call__(
        self,
        layer_idx: TensorValue,
        hidden_states: Sequence[TensorValue],
        reads: Sequence[ImageReadValues],
        signals: Sequence[BufferValue],
    ) -> list[TensorValue]:
        """Returns the states on each device, then the queries on each device.

        Args:
            layer_idx: uint32 index among the cross-attention layers.
            hidden_states: The states of the text tokens, on each device.
            reads: The image segments that tokens attend to, on each device.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
        """
        queries = [
            shard.cross_attn.q_norm(
                shard.cross_attn.project_query(
                    shard.input_layernorm(computed_tokens(states, read))
                )
            )
            for shard, states, read in zip(
                self.shards, hidden_states, reads, strict=True
            )
        ]
        return [*super().__call__(layer_idx, hidden_states, reads, signals), *queries]


class QueryReturningTextModel(MllamaTextModel):
    """A language model whose cross-attention layers return their queries."""

    cross_attention_layer = QueryReturningLayer


class MllamaTextQueries(GraphModule):
    """The language model without its head; it returns the cross-attention's queries."""

    mojo_packages = (attention.MOJO_PACKAGE, gguf_matmul.MOJO_PACKAGE)

    def __init__(
        self,
        config: MllamaConfig,
        kv_params: MHAKVCacheParams,
        image_cache_params: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        num_shards: int = 1,
        *,
        encodings: Encodings,
    ) -> None:
        super().__init__()
        self.kv_params: KVCacheParamInterface = kv_params
        self.image_cache_params = image_cache_params
        self.device = device
        self.freqs_cis_type = (dtype, ["positions", config.text_config.head_dim])
        self.language_model = QueryReturningTextModel(
            config.text_config,
            kv_params,
            image_cache_params,
            dtype,
            device,
            num_shards,
            encodings,
            "language_model",
        )

    def __call__(
        self,
        tokens: TensorValue,
        input_row_offsets: TensorValue,
        reads: Sequence[ImageReadValues],
        kv_caches: Sequence[PagedCacheValues],
        freqs_cis: Sequence[TensorValue],
        signals: Sequence[BufferValue],
    ) -> tuple[TensorValue, ...]:
        """Prefills a ragged batch.

        Args:
            tokens: int64 ``[tokens]``, the new tokens of all requests.
            input_row_offsets: uint32 ``[requests + 1]``.
            reads: The image segments that tokens attend to, on each device.
            kv_caches: The paged KV cache of the self-attention layers, of each device.
            freqs_cis: The rotary table on each device.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.

        Returns:
            For each device, float32 ``[cross-attention layers, attending tokens, heads
            of the device, head dim]``: the queries after q_norm of the tokens that
            attend to an image.
        """
        queries: list[list[TensorValue]] = []
        self.language_model(
            tokens,
            broadcast(input_row_offsets, len(self.shards), signals),
            kv_caches,
            reads,
            freqs_cis,
            signals,
            further=queries,
        )
        return tuple(
            ops.cast(ops.stack(of_layers), DType.float32)
            for of_layers in zip(*queries, strict=True)
        )

    def argument_types(self) -> tuple[Any, ...]:
        """Returns the types of the arguments of a call."""
        return (
            TensorType(DType.int64, ["total_seq_len"], self.device),
            TensorType(DType.uint32, ["input_row_offsets_len"], self.device),
            image_read_types(self.image_cache_params),
            self.kv_params.get_symbolic_inputs(),
            [
                TensorType(*self.freqs_cis_type, device)
                for device in self.image_cache_params.devices
            ],
            signal_types(self.image_cache_params.devices),
        )
