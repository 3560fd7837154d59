"""Cross-attention from text tokens to cached images.

Source: transformers' ``modeling_mllama.py`` (MllamaTextCrossAttention,
MllamaCrossAttentionDecoderLayer).  The layer is split between the two graphs.
Keys and values depend on the image alone, so the vision graph computes them once.
Queries depend on the text and belong to the text graph.
"""

from __future__ import annotations

from collections.abc import Sequence

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorValue, Weight, ops
from max.nn.attention.mask_config import MHAMaskVariant
from max.nn.kernels import (
    cross_attention_ragged,
    store_k_cache_ragged,
    store_v_cache_ragged,
)
from max.nn.kv_cache import MHAKVCacheParams
from max.nn.layer import Module
from max.nn.norm import RMSNorm

from mllama.config import MllamaTextConfig
from mllama.kernels.ops.attention import image_attention, store_kv, supports
from mllama.nn.layers.image_cache_inputs import (
    AttendingMask,
    AttendingTokens,
    ImageReadValues,
    ImageWriteValues,
)
from mllama.nn.layers.linear import Encodings, feed_forward, projection
from mllama.nn.layers.tensor_parallel import Sharded, all_reduce, feed_forward_sum


def text_norm(config: MllamaTextConfig, width: int, dtype: DType) -> RMSNorm:
    """Returns Llama's RMSNorm, which applies the weight after the cast to ``dtype``."""
    return RMSNorm(width, dtype, config.rms_norm_eps, multiply_before_cast=False)


class MllamaCrossAttentionKeysValues(Sharded):
    """The keys and values of one MllamaTextCrossAttention: k_proj, k_norm, v_proj."""

    def __init__(
        self,
        config: MllamaTextConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        encodings: Encodings,
        path: str,
    ) -> None:
        super().__init__()
        self.num_key_value_heads = config.num_key_value_heads // num_shards
        self.head_dim = config.head_dim
        width = self.num_key_value_heads * config.head_dim
        self.k_proj, self.v_proj = (
            projection(
                encodings, f"{path}.{name}", config.hidden_size, width, dtype, device
            )
            for name in ("k_proj", "v_proj")
        )
        self.k_norm = text_norm(config, config.head_dim, dtype)

    def __call__(
        self,
        layer_idx: TensorValue,
        cross_attention_states: Sequence[TensorValue],
        writes: Sequence[ImageWriteValues],
    ) -> TensorValue:
        """Computes keys and values of all images and stores them in the image cache.

        Args:
            layer_idx: uint32 scalar, index among the cross-attention layers.
            cross_attention_states: The projected vision states of all images,
                ``[patches, hidden]``, on each device.
            writes: Where each device stores each image.

        Returns:
            The next layer's ``layer_idx``, because MAX rejects a subgraph none of whose
            results is used.
        """
        for shard, states, write in zip(
            self.shards, cross_attention_states, writes, strict=True
        ):
            shard.store(layer_idx, states, write)
        return layer_idx + ops.constant(1, DType.uint32, DeviceRef.CPU())

    def store(
        self,
        layer_idx: TensorValue,
        cross_attention_states: TensorValue,
        write: ImageWriteValues,
    ) -> None:
        """Stores the keys and values of one device's heads."""
        patches, _ = cross_attention_states.shape
        shape = [patches, self.num_key_value_heads, self.head_dim]
        key = self.k_norm(ops.reshape(self.k_proj(cross_attention_states), shape))
        value = ops.reshape(self.v_proj(cross_attention_states), shape)
        image_cache = write.pages.kv_blocks
        if supports(self.head_dim, key.dtype, image_cache.dtype, key.device):
            store_kv(
                image_cache,
                key,
                value,
                layer_idx,
                table=write.pages.lookup_table,
                token_offsets=write.patch_offsets,
                starts=write.pages.cache_lengths,
            )
            return
        store_k_cache_ragged(write.pages, key, write.patch_offsets, layer_idx)
        store_v_cache_ragged(write.pages, value, write.patch_offsets, layer_idx)


class MllamaTextCrossAttention(Module):
    """The queries of cross-attention: q_proj, q_norm, attention, o_proj."""

    def __init__(
        self,
        config: MllamaTextConfig,
        image_cache_params: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        encodings: Encodings,
        path: str,
    ) -> None:
        super().__init__()
        self.image_cache_params = image_cache_params
        self.num_heads = config.num_attention_heads // num_shards
        self.head_dim = config.head_dim
        width = self.num_heads * config.head_dim
        self.q_proj = projection(
            encodings, f"{path}.q_proj", config.hidden_size, width, dtype, device
        )
        self.o_proj = projection(
            encodings, f"{path}.o_proj", width, config.hidden_size, dtype, device
        )
        self.q_norm = text_norm(config, config.head_dim, dtype)

    def __call__(
        self, layer_idx: TensorValue, hidden_states: TensorValue, read: ImageReadValues
    ) -> TensorValue:
        """Maps ``[computed tokens, hidden]`` to the device's partial sum of the same
        shape.

        Outputs of tokens that attend to no image are finite but meaningless.
        """
        tokens = hidden_states.shape[0]
        return self.o_proj(
            ops.reshape(
                self.attend(layer_idx, self.project_query(hidden_states), read),
                [tokens, self.num_heads * self.head_dim],
            )
        )

    def project_query(self, hidden_states: TensorValue) -> TensorValue:
        """Maps ``[computed tokens, hidden]`` to queries before q_norm, ``[computed
        tokens, heads, head dim]``."""
        return ops.reshape(
            self.q_proj(hidden_states),
            [hidden_states.shape[0], self.num_heads, self.head_dim],
        )

    def attend(
        self, layer_idx: TensorValue, query: TensorValue, read: ImageReadValues
    ) -> TensorValue:
        """Applies q_norm and attention to ``[computed tokens, heads, head dim]``."""
        image_cache = read.pages.kv_blocks
        if supports(self.head_dim, query.dtype, image_cache.dtype, query.device):
            return image_attention(
                query,
                self.q_norm.weight,
                image_cache,
                layer_idx,
                table=read.pages.lookup_table,
                segment_offsets=read.segment_offsets,
                image_offsets=read.image_offsets,
                epsilon=self.q_norm.eps,
            )
        return cross_attention_ragged(
            self.image_cache_params,
            self.q_norm(query),
            read.segment_offsets,
            read.pages,
            layer_idx,
            MHAMaskVariant.NULL_MASK,
            read.image_offsets,
            read.max_segment_length,
            scale=self.head_dim**-0.5,
        )


class MllamaCrossAttentionDecoderLayer(Sharded):
    """Cross-attention and MLP, each gated with tanh.

    The layer leaves tokens that precede every image exactly as they were, as Meta's
    original code does.  transformers lets such tokens attend uniformly to the image,
    and masks only the MLP.  On a CPU such tokens aren't computed, and cost nothing.
    """

    def __init__(
        self,
        config: MllamaTextConfig,
        image_cache_params: MHAKVCacheParams,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        encodings: Encodings,
        path: str,
    ) -> None:
        super().__init__()
        self.cross_attn = MllamaTextCrossAttention(
            config,
            image_cache_params,
            dtype,
            device,
            num_shards,
            encodings,
            f"{path}.cross_attn",
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
        self.cross_attn_attn_gate = Weight("cross_attn_attn_gate", dtype, (1,), device)
        self.cross_attn_mlp_gate = Weight("cross_attn_mlp_gate", dtype, (1,), device)

    def __call__(
        self,
        layer_idx: TensorValue,
        hidden_states: Sequence[TensorValue],
        reads: Sequence[ImageReadValues],
        signals: Sequence[BufferValue],
    ) -> list[TensorValue]:
        """Maps ``[text tokens, hidden]`` to the same shape, on each device.

        Args:
            layer_idx: uint32 index among the cross-attention layers.
            hidden_states: The states of the text tokens, on each device.
            reads: The image segments that tokens attend to, on each device.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
        """
        computed = [
            computed_tokens(states, read)
            for states, read in zip(hidden_states, reads, strict=True)
        ]
        attn_outputs = all_reduce(
            [
                shard.cross_attn(layer_idx, shard.input_layernorm(states), read)
                for shard, states, read in zip(
                    self.shards, computed, reads, strict=True
                )
            ],
            signals,
        )
        after_attention = [
            states + _apply_mask(read, ops.tanh(shard.cross_attn_attn_gate) * attention)
            for shard, states, attention, read in zip(
                self.shards, computed, attn_outputs, reads, strict=True
            )
        ]
        mlp_outputs = feed_forward_sum(self.shards, after_attention, signals)
        after_mlp = [
            states + _apply_mask(read, ops.tanh(shard.cross_attn_mlp_gate) * mlp)
            for shard, states, mlp, read in zip(
                self.shards, after_attention, mlp_outputs, reads, strict=True
            )
        ]
        return [
            _put_back(states, updated, read)
            for states, updated, read in zip(
                hidden_states, after_mlp, reads, strict=True
            )
        ]


def computed_tokens(hidden_states: TensorValue, read: ImageReadValues) -> TensorValue:
    """Returns the states of the tokens that cross-attention computes, ``[computed
    tokens, hidden]``: those that attend to an image, or all."""
    if isinstance(read.attending, AttendingTokens):
        return ops.gather(hidden_states, read.attending.indices, axis=0)
    return hidden_states


def _put_back(
    hidden_states: TensorValue, updated: TensorValue, read: ImageReadValues
) -> TensorValue:
    """Returns the states of all text tokens, of which the computed ones are updated."""
    if isinstance(read.attending, AttendingTokens):
        indices = ops.unsqueeze(read.attending.indices, 1)
        return ops.scatter_nd(hidden_states, updated, indices)
    return updated


def _apply_mask(read: ImageReadValues, update: TensorValue) -> TensorValue:
    """Zeroes the update of tokens without an image if they are computed."""
    if isinstance(read.attending, AttendingMask):
        return update * read.attending.factors.cast(update.dtype)
    return update
