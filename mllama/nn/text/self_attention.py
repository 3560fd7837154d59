"""Self-attention layers: MAX's for Llama, with weights as floats or GGUF blocks.

On a CPU, a custom op computes the attention where it supports the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorValue, Weight, ops
from max.nn.attention import AttentionWithRope, GGUFQAttentionWithRope
from max.nn.kernels import flash_attention_ragged, rope_split_store_ragged
from max.nn.kv_cache import MHAKVCacheParams
from max.nn.rotary_embedding import RotaryEmbedding

from mllama.config import MllamaTextConfig
from mllama.kernels.ops.attention import (
    PAGE_SIZE,
    causal_attention,
    rotate_and_store_kv,
    supports,
)
from mllama.kernels.ops.gguf_matmul import fused_qkv_matmul
from mllama.max_compat.model import PagedCacheValues
from mllama.nn.layers.linear import (
    Encodings,
    feed_forward,
    gguf_weight,
    has_custom_matmul,
    projection,
)
from mllama.nn.layers.tensor_parallel import Sharded, all_reduce, feed_forward_sum
from mllama.nn.text.cross_attention import text_norm


def supports_kv_cache(
    params: MHAKVCacheParams, dtype: DType, device: DeviceRef
) -> bool:
    """Returns True if the custom op supports attention to a KV cache.

    Args:
        params: The KV cache.
        dtype: Data type of the queries.
        device: Device of the attention.
    """
    return (
        params.page_size == PAGE_SIZE
        and not params.per_layer_buffers
        and supports(params.head_dim, dtype, params.dtype, device)
    )


def attend(
    layer: AttentionWithRope,
    layer_idx: TensorValue,
    qkv: TensorValue,
    kv_collection: PagedCacheValues,
    freqs_cis: TensorValue,
    input_row_offsets: TensorValue,
) -> TensorValue:
    """Applies rotary embedding, stores keys and values, and attends, as MAX does.

    Args:
        layer: The layer, for its settings.
        layer_idx: uint32 index among the self-attention layers.
        qkv: ``[tokens, (heads + 2 * kv heads) * head dim]``.
        kv_collection: The KV cache.
        freqs_cis: The rotary table.
        input_row_offsets: uint32 ``[requests + 1]``.

    Returns:
        ``[tokens, heads * head dim]``.
    """
    params = layer.kv_params
    shape = [qkv.shape[0], layer.n_heads, params.head_dim]
    if params.dtype is qkv.dtype:
        query = rope_split_store_ragged(
            params,
            qkv,
            input_row_offsets,
            freqs_cis,
            kv_collection,
            layer_idx,
            layer.n_heads,
            interleaved=layer.rope.interleaved,
        )
        heads = ops.reshape(query, shape)
    else:
        # MAX's op stores what it computes, without rounding it to another data type.
        heads = rotate_and_store_kv(
            qkv,
            kv_collection.kv_blocks,
            layer_idx,
            freqs_cis,
            heads=layer.n_heads,
            table=kv_collection.lookup_table,
            token_offsets=input_row_offsets,
            cache_lengths=kv_collection.cache_lengths,
        )
    if supports_kv_cache(params, qkv.dtype, qkv.device):
        result = causal_attention(
            heads,
            kv_collection.kv_blocks,
            layer_idx,
            table=kv_collection.lookup_table,
            token_offsets=input_row_offsets,
            cache_lengths=kv_collection.cache_lengths,
        )
    else:
        result = flash_attention_ragged(
            params,
            input=heads,
            kv_collection=kv_collection,
            layer_idx=layer_idx,
            input_row_offsets=input_row_offsets,
            mask_variant=layer.mask_variant,
            scale=layer.scale,
        )
    return ops.reshape(result, [shape[0], layer.n_heads * params.head_dim])


class FloatSelfAttention(AttentionWithRope):
    """MAX's attention with float weights."""

    def __call__(
        self,
        layer_idx: TensorValue,
        x: TensorValue,
        kv_collection: PagedCacheValues,
        freqs_cis: TensorValue,
        input_row_offsets: TensorValue,
    ) -> TensorValue:
        """Runs MAX's layer, with the custom op for attention where it is supported."""
        if not supports_kv_cache(self.kv_params, x.dtype, x.device):
            return super().__call__(
                layer_idx, x, kv_collection, freqs_cis, input_row_offsets
            )
        qkv = self.qkv_proj(x)
        return self.o_proj(
            attend(self, layer_idx, qkv, kv_collection, freqs_cis, input_row_offsets)
        )


class QuantizedSelfAttention(GGUFQAttentionWithRope):
    """MAX's attention with GGUF blocks; the three projections may differ in format."""

    def __init__(
        self,
        encodings: Encodings,
        path: str,
        rope: RotaryEmbedding,
        kv_params: MHAKVCacheParams,
        width: int,
        num_attention_heads: int,
        device: DeviceRef,
    ) -> None:
        keys = kv_params.n_kv_heads * kv_params.head_dim
        queries = num_attention_heads * kv_params.head_dim
        super().__init__(
            rope=rope,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=kv_params.n_kv_heads,
            hidden_size=width,
            kv_params=kv_params,
            dtype=DType.uint8,
            quantization_encoding=encodings[f"{path}.q_proj.weight"],
            devices=[device],
        )

        def weight(name: str, out_dim: int) -> Weight:
            encoding = encodings[f"{path}.{name}"]
            return gguf_weight(name, out_dim, width, encoding, device)

        self.uses_custom_op = has_custom_matmul(width, device)
        self.q_proj_weight = weight("q_proj.weight", queries)
        self.k_proj_weight = weight("k_proj.weight", keys)
        self.v_proj_weight = weight("v_proj.weight", keys)
        self.o_proj = projection(
            encodings, f"{path}.o_proj", queries, width, DType.float32, device
        )

    def __call__(
        self,
        layer_idx: TensorValue,
        x: TensorValue,
        kv_collection: PagedCacheValues,
        freqs_cis: TensorValue,
        input_row_offsets: TensorValue,
    ) -> TensorValue:
        """Runs MAX's layer, with the custom op for fused QKV where it is supported."""
        if not self.uses_custom_op:
            return super().__call__(
                layer_idx, x, kv_collection, freqs_cis, input_row_offsets
            )
        qkv = fused_qkv_matmul(
            x, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        )
        return self.o_proj(
            attend(self, layer_idx, qkv, kv_collection, freqs_cis, input_row_offsets)
        )


def rotary_embedding(config: MllamaTextConfig) -> RotaryEmbedding:
    """Returns the rotary embedding's settings for MAX's attention.

    The table itself is an input of the graph, which therefore doesn't depend on the
    length of the context.
    """
    return RotaryEmbedding(
        dim=config.hidden_size,
        n_heads=config.num_attention_heads,
        theta=config.rope_theta,
        max_seq_len=config.max_position_embeddings,
        head_dim=config.head_dim,
        interleaved=False,
    )


class MllamaSelfAttentionDecoderLayer(Sharded):
    """Llama's layer: MAX's attention over the KV cache, and MLP."""

    def __init__(
        self,
        config: MllamaTextConfig,
        rope: RotaryEmbedding,
        kv_params: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        encodings: Encodings,
        path: str,
    ) -> None:
        super().__init__()
        self.self_attn: AttentionWithRope
        if f"{path}.self_attn.q_proj.weight" in encodings:
            self.self_attn = QuantizedSelfAttention(
                encodings,
                f"{path}.self_attn",
                rope,
                kv_params,
                config.hidden_size,
                config.num_attention_heads,
                device,
            )
        else:
            num_heads = config.num_attention_heads // num_shards
            self.self_attn = FloatSelfAttention(
                rope=rope,
                num_attention_heads=num_heads,
                num_key_value_heads=config.num_key_value_heads // num_shards,
                hidden_size=config.hidden_size,
                kv_params=kv_params,
                dtype=dtype,
                devices=[device],
            )
            self.self_attn.o_proj = projection(
                encodings,
                f"{path}.self_attn.o_proj",
                num_heads * config.head_dim,
                config.hidden_size,
                dtype,
                device,
            )
        self.mlp = feed_forward(
            encodings,
            f"{path}.mlp",
            config.hidden_size,
            config.intermediate_size // num_shards,
            dtype,
            device,
        )
        self.input_layernorm = text_norm(config, config.hidden_size, dtype)
        self.post_attention_layernorm = text_norm(config, config.hidden_size, dtype)

    def __call__(
        self,
        layer_idx: TensorValue,
        hidden_states: Sequence[TensorValue],
        kv_caches: Sequence[PagedCacheValues],
        freqs_cis: Sequence[TensorValue],
        input_row_offsets: Sequence[TensorValue],
        signals: Sequence[BufferValue],
    ) -> list[TensorValue]:
        """Maps ``[text tokens, hidden]`` to the same shape, on each device.

        Args:
            layer_idx: uint32 index among the self-attention layers.
            hidden_states: The states of the text tokens, on each device.
            kv_caches: The KV cache of each device's heads.
            freqs_cis: The rotary table, on each device.
            input_row_offsets: uint32 ``[requests + 1]``, on each device.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
        """
        attn_outputs = all_reduce(
            [
                shard.self_attn(
                    layer_idx,
                    shard.input_layernorm(states),
                    kv_cache,
                    freqs_cis=freqs,
                    input_row_offsets=offsets,
                )
                for shard, states, kv_cache, freqs, offsets in zip(
                    self.shards,
                    hidden_states,
                    kv_caches,
                    freqs_cis,
                    input_row_offsets,
                    strict=True,
                )
            ],
            signals,
        )
        after_attention = [
            states + attention
            for states, attention in zip(hidden_states, attn_outputs, strict=True)
        ]
        mlp_outputs = feed_forward_sum(self.shards, after_attention, signals)
        return [
            states + mlp
            for states, mlp in zip(after_attention, mlp_outputs, strict=True)
        ]
