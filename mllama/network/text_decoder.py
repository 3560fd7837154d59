"""The root of the text graph: tokens and images in the pool to logits.

Source: transformers' ``modeling_mllama.py`` (MllamaTextModel, MllamaForCausalLM).
The self-attention layers are MAX's own Llama layers over MAX's paged KV cache, which
holds one layer per *self*-attention layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from max import tree
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, TensorValue, Type, Value, ops
from max.graph import Module as GraphModule
from max.nn.attention import AttentionWithRope
from max.nn.embedding import Embedding
from max.nn.kv_cache import KVCacheParamInterface, MHAKVCacheParams
from max.nn.layer import LayerList, Module
from max.nn.linear import MLP, Linear
from max.nn.rotary_embedding import Llama3RopeScalingParams, Llama3RotaryEmbedding
from max.nn.transformer import ReturnLogits, TransformerBlock

from mllama.config import MllamaConfig, MllamaTextConfig
from mllama.max_api import (
    KVCacheInputsPerDevice,
    PagedCacheValues,
    logits_postprocess,
)
from mllama.network.cross_attention import (
    MllamaCrossAttentionDecoderLayer,
    text_norm,
)
from mllama.network.image_pool import ImageReadValues, image_read_types
from mllama.network.subgraphs import RepeatedLayer


def rotary_embedding(
    config: MllamaTextConfig, max_length: int
) -> Llama3RotaryEmbedding:
    """The rotation table, with llama3's frequency scaling if the config has it."""
    scaling = config.rope_scaling
    return Llama3RotaryEmbedding(
        dim=config.hidden_size,
        n_heads=config.num_attention_heads,
        theta=config.rope_theta,
        max_seq_len=max_length,
        head_dim=config.head_dim,
        interleaved=False,
        scaling_params=None
        if scaling is None
        else Llama3RopeScalingParams(
            factor=scaling.factor,
            low_freq_factor=scaling.low_freq_factor,
            high_freq_factor=scaling.high_freq_factor,
            orig_max_position=scaling.original_max_position_embeddings,
        ),
    )


class MllamaTextModel(Module):
    """Embedding, self-attention layers interleaved with cross-attention, norm."""

    def __init__(
        self,
        config: MllamaTextConfig,
        kv_params: MHAKVCacheParams,
        pool: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        max_length: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.rope = rotary_embedding(config, max_length)
        self.embed_tokens = Embedding(
            config.num_embedding_rows, config.hidden_size, dtype, device
        )
        self.layers = LayerList(
            [
                MllamaCrossAttentionDecoderLayer(config, pool, dtype, device)
                if index in config.cross_attention_layers
                else TransformerBlock(
                    attention=AttentionWithRope(
                        rope=self.rope,
                        num_attention_heads=config.num_attention_heads,
                        num_key_value_heads=config.num_key_value_heads,
                        hidden_size=config.hidden_size,
                        kv_params=kv_params,
                        dtype=dtype,
                        devices=[device],
                    ),
                    mlp=MLP(
                        dtype,
                        None,
                        config.hidden_size,
                        config.intermediate_size,
                        [device],
                    ),
                    attention_norm=text_norm(config, config.hidden_size, dtype),
                    mlp_norm=text_norm(config, config.hidden_size, dtype),
                )
                for index in range(config.num_hidden_layers)
            ]
        )
        self.norm = text_norm(config, config.hidden_size, dtype)

    def __call__(
        self,
        tokens: TensorValue,
        input_row_offsets: TensorValue,
        kv_cache: PagedCacheValues,
        read: ImageReadValues,
        *,
        path: str,
    ) -> TensorValue:
        """int64 tokens ``[rows]`` to hidden states ``[rows, hidden]`` before the
        final norm; ``path`` is where this module stands in the root module."""
        hidden_states = self.embed_tokens(tokens)
        freqs_cis = self.rope.freqs_cis.to(hidden_states.device)
        self_attention = RepeatedLayer("self_attention_layer")
        cross_attention = RepeatedLayer("cross_attention_layer")
        self_layers = cross_layers = 0
        for index, layer in enumerate(self.layers):
            prefix = f"{path}.layers.{index}."
            if isinstance(layer, MllamaCrossAttentionDecoderLayer):
                layer_idx = ops.constant(cross_layers, DType.uint32, DeviceRef.CPU())
                (hidden_states,) = cross_attention(
                    layer, [layer_idx, hidden_states, read], prefix=prefix
                )
                cross_layers += 1
            else:
                layer_idx = ops.constant(self_layers, DType.uint32, DeviceRef.CPU())
                (hidden_states,) = self_attention(
                    layer,
                    [
                        layer_idx,
                        hidden_states,
                        kv_cache,
                        freqs_cis,
                        input_row_offsets,
                    ],
                    prefix=prefix,
                )
                self_layers += 1
        return hidden_states


class MllamaTextDecoder(Module):
    """Language model and head; one graph serves prefill and decode."""

    def __init__(
        self,
        config: MllamaConfig,
        kv_params: MHAKVCacheParams,
        pool: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        *,
        max_length: int,
        return_logits: ReturnLogits,
    ) -> None:
        super().__init__()
        text = config.text_config
        self.kv_params: KVCacheParamInterface = kv_params
        self.pool = pool
        self.device = device
        self.return_logits = return_logits
        self.language_model = MllamaTextModel(
            text, kv_params, pool, dtype, device, max_length
        )
        self.lm_head = Linear(text.hidden_size, text.vocab_size, dtype, device)

    def __call__(
        self,
        tokens: TensorValue,
        input_row_offsets: TensorValue,
        return_n_logits: TensorValue,
        read: ImageReadValues,
        kv_cache: PagedCacheValues,
    ) -> tuple[TensorValue, ...]:
        """One step over a ragged batch.

        Args:
            tokens: int64 ``[rows]``, the new tokens of all requests.
            input_row_offsets: uint32 ``[requests + 1]``.
            return_n_logits: int64 ``[1]`` on the host.
            read: What each row attends to in the image pool.
            kv_cache: The paged KV cache of the self-attention layers.

        Returns:
            float32 logits ``[requests, vocab]`` of each request's last row, and as
            MAX's ``logits_postprocess`` adds for other values of ``return_logits``.
        """
        hidden_states = self.language_model(
            tokens, input_row_offsets, kv_cache, read, path="language_model"
        )
        return logits_postprocess(
            hidden_states,
            input_row_offsets,
            return_n_logits,
            norm=self.language_model.norm,
            lm_head=self.lm_head,
            return_logits=self.return_logits,
        )

    def input_types(self) -> tuple[Type[Any], ...]:
        """The graph's inputs in order: tokens, input_row_offsets, return_n_logits,
        the leaves of the read inputs, the leaves of the KV cache inputs."""
        return (
            TensorType(DType.int64, ["total_seq_len"], self.device),
            TensorType(DType.uint32, ["input_row_offsets_len"], self.device),
            TensorType(DType.int64, ["return_n_logits"], DeviceRef.CPU()),
            *tree.leaves(image_read_types(self.pool)),
            *tree.leaves(self.kv_params.get_symbolic_inputs()),
        )

    def trace(
        self,
        *input_types: Type[Any],
        name: str | None = None,
        module: GraphModule | None = None,
        custom_extensions: Iterable[Path] = (),
        is_device_graph: bool = False,
    ) -> Graph:
        """Traces the graph; see :meth:`input_types`."""
        read_leaves, read_structure = tree.flatten(image_read_types(self.pool))
        num_read = len(read_leaves)

        def forward(*inputs: Value[Any]) -> tuple[TensorValue, ...]:
            tokens, offsets, return_n_logits = (v.tensor for v in inputs[:3])
            read = tree.unflatten(read_structure, iter(inputs[3 : 3 + num_read]))
            (kv_cache,) = tree.leaves(
                self.kv_params.unflatten_kv_inputs(iter(inputs[3 + num_read :])),
                leaf=KVCacheInputsPerDevice,
            )
            return self(tokens, offsets, return_n_logits, read, kv_cache)

        return Graph(
            name or type(self).__qualname__,
            forward,
            input_types=input_types,
            custom_extensions=list(custom_extensions),
            module=module,
            is_device_graph=is_device_graph,
        )
