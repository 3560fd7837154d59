"""The root of the text graph: from tokens and cached images to logits.

Source: transformers' ``modeling_mllama.py`` (MllamaTextModel, MllamaForCausalLM).
The self-attention layers are MAX's Llama layers.  MAX's paged KV cache has one layer
for each *self*-attention layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from max.dtype import DType
from max.graph import (
    BufferValue,
    DeviceRef,
    TensorType,
    TensorValue,
    ops,
)
from max.nn.kv_cache import KVCacheParamInterface, MHAKVCacheParams
from max.nn.layer import LayerList

from mllama.config import MllamaConfig, MllamaTextConfig
from mllama.kernels.ops import attention, gguf_matmul
from mllama.max_compat.model import PagedCacheValues
from mllama.nn.layers.graph_module import GraphModule
from mllama.nn.layers.image_cache_inputs import ImageReadValues, image_read_types
from mllama.nn.layers.linear import (
    Encodings,
    layer_formats,
    projection,
    token_embedding,
)
from mllama.nn.layers.subgraphs import RepeatedLayers
from mllama.nn.layers.tensor_parallel import (
    Sharded,
    all_gather,
    broadcast,
    signal_types,
)
from mllama.nn.text.cross_attention import (
    MllamaCrossAttentionDecoderLayer,
    text_norm,
)
from mllama.nn.text.self_attention import (
    MllamaSelfAttentionDecoderLayer,
    rotary_embedding,
)


class MllamaTextModel(Sharded):
    """The embedding, self-attention and cross-attention layers, and the final norm."""

    cross_attention_layer: type[MllamaCrossAttentionDecoderLayer] = (
        MllamaCrossAttentionDecoderLayer
    )

    def __init__(
        self,
        config: MllamaTextConfig,
        kv_params: MHAKVCacheParams,
        image_cache_params: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        encodings: Encodings,
        path: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.path = path
        rope = rotary_embedding(config)
        # MAX's layers take the width of their matrices from it, and in int8 a head of
        # the cache is wider by its scale.
        kv_params = replace(kv_params, head_dim=config.head_dim)
        self.embed_tokens = token_embedding(
            encodings,
            f"{path}.embed_tokens",
            config.num_embeddings,
            config.hidden_size // num_shards,
            dtype,
            device,
        )
        self.layers = LayerList(
            [
                self.cross_attention_layer(
                    config,
                    image_cache_params,
                    dtype,
                    device,
                    num_shards,
                    encodings,
                    f"{path}.layers.{index}",
                )
                if index in config.cross_attention_layers
                else MllamaSelfAttentionDecoderLayer(
                    config,
                    rope,
                    kv_params,
                    dtype,
                    device,
                    num_shards,
                    encodings,
                    f"{path}.layers.{index}",
                )
                for index in range(config.num_hidden_layers)
            ]
        )
        self.norm = text_norm(config, config.hidden_size, dtype)
        # Layers whose weights have the same formats share a subgraph.
        self.kinds = [
            layer_formats(encodings, f"{path}.layers.{index}.")
            for index in range(config.num_hidden_layers)
        ]

    def __call__(
        self,
        tokens: TensorValue,
        input_row_offsets: Sequence[TensorValue],
        kv_caches: Sequence[PagedCacheValues],
        reads: Sequence[ImageReadValues],
        freqs_cis: Sequence[TensorValue],
        signals: Sequence[BufferValue],
        *,
        further: list[list[TensorValue]] | None = None,
    ) -> list[TensorValue]:
        """Returns the hidden states before the final norm, ``[tokens, hidden]``, on
        each device.

        Args:
            tokens: int64 ``[tokens]``.
            input_row_offsets: uint32 ``[requests + 1]``, on each device.
            kv_caches: The KV cache of each device's heads.
            reads: The image segments that tokens attend to, on each device.
            freqs_cis: The rotary table, on each device.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
            further: What each cross-attention layer returns after the hidden states is
                appended.
        """
        hidden_states = all_gather(
            [
                shard.embed_tokens(indices)
                for shard, indices in zip(
                    self.shards,
                    broadcast(tokens, len(self.shards), signals),
                    strict=True,
                )
            ],
            signals,
        )
        self_attention = RepeatedLayers("self_attention_layer")
        cross_attention = RepeatedLayers("cross_attention_layer")
        self_layers = cross_layers = 0
        for index, layer in enumerate(self.layers):
            prefix = f"{self.path}.layers.{index}."
            if isinstance(layer, MllamaCrossAttentionDecoderLayer):
                layer_idx = ops.constant(cross_layers, DType.uint32, DeviceRef.CPU())
                outputs = cross_attention[self.kinds[index]](
                    layer, [layer_idx, hidden_states, reads, signals], prefix=prefix
                )
                devices = len(hidden_states)
                hidden_states = outputs[:devices]
                if further is not None:
                    further.append(outputs[devices:])
                cross_layers += 1
            else:
                layer_idx = ops.constant(self_layers, DType.uint32, DeviceRef.CPU())
                hidden_states = self_attention[self.kinds[index]](
                    layer,
                    [
                        layer_idx,
                        hidden_states,
                        kv_caches,
                        freqs_cis,
                        input_row_offsets,
                        signals,
                    ],
                    prefix=prefix,
                )
                self_layers += 1
        return hidden_states


class MllamaTextDecoder(GraphModule):
    """The language model and its head; one graph serves prefill and decode."""

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
        text = config.text_config
        self.kv_params: KVCacheParamInterface = kv_params
        self.image_cache_params = image_cache_params
        self.device = device
        self.freqs_cis_type = (dtype, ["positions", text.head_dim])
        self.language_model = MllamaTextModel(
            text,
            kv_params,
            image_cache_params,
            dtype,
            device,
            num_shards,
            encodings,
            "language_model",
        )
        self.lm_head = projection(
            encodings,
            "lm_head",
            text.hidden_size,
            text.vocab_size // num_shards,
            dtype,
            device,
        )

    def __call__(
        self,
        tokens: TensorValue,
        input_row_offsets: TensorValue,
        logit_indices: TensorValue,
        reads: Sequence[ImageReadValues],
        kv_caches: Sequence[PagedCacheValues],
        freqs_cis: Sequence[TensorValue],
        signals: Sequence[BufferValue],
    ) -> tuple[TensorValue]:
        """Computes one step of a ragged batch.

        Args:
            tokens: int64 ``[tokens]``, the new tokens of all requests.
            input_row_offsets: uint32 ``[requests + 1]``.
            logit_indices: int64 ``[logits]``, the tokens whose logits are wanted: the
                last of each request, and those whose prompt log probabilities are
                asked for.
            reads: The image segments that tokens attend to, on each device.
            kv_caches: The paged KV cache of the self-attention layers, of each device.
            freqs_cis: :func:`~mllama.config.rope.rotary_table` on each device, in the
                dtype of the activations.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.

        Returns:
            float32 logits ``[logits, vocab]``, in the order of ``logit_indices``.
        """
        offsets = broadcast(input_row_offsets, len(self.shards), signals)
        hidden_states = self.language_model(
            tokens, offsets, kv_caches, reads, freqs_cis, signals
        )
        selected = [
            shard.language_model.norm(ops.gather(states, indices, axis=0))
            for shard, states, indices in zip(
                self.shards,
                hidden_states,
                broadcast(logit_indices, len(self.shards), signals),
                strict=True,
            )
        ]
        return (ops.cast(self.logits(selected, signals)[0], DType.float32),)

    def logits(
        self, hidden_states: Sequence[TensorValue], signals: Sequence[BufferValue]
    ) -> list[TensorValue]:
        """Maps normed ``[tokens, hidden]`` to ``[tokens, vocab]``, on each device."""
        return all_gather(
            [
                shard.lm_head(states)
                for shard, states in zip(self.shards, hidden_states, strict=True)
            ],
            signals,
        )

    def argument_types(self) -> tuple[Any, ...]:
        """Returns the types of the arguments of a call."""
        return (
            TensorType(DType.int64, ["total_seq_len"], self.device),
            TensorType(DType.uint32, ["input_row_offsets_len"], self.device),
            TensorType(DType.int64, ["logits"], self.device),
            image_read_types(self.image_cache_params),
            self.kv_params.get_symbolic_inputs(),
            [
                TensorType(*self.freqs_cis_type, device)
                for device in self.image_cache_params.devices
            ],
            signal_types(self.image_cache_params.devices),
        )
