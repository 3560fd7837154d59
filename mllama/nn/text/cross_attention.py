"""Cross-attention from text to the images in the pool.

Source: transformers' ``modeling_mllama.py`` (MllamaTextCrossAttention,
MllamaCrossAttentionDecoderLayer).  The layer is split where its two inputs meet:
keys and values depend on the image alone and are computed once, by the vision graph;
queries depend on the text and belong to the text graph.
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
from mllama.kernels.ops.attention import image_attention, store_image_kv, supports
from mllama.nn.layers.image_cache_inputs import ImageReadValues, ImageWriteValues
from mllama.nn.layers.linear import Encodings, feed_forward, projection
from mllama.nn.layers.tensor_parallel import Sharded, all_reduce, feed_forward_sum


def text_norm(config: MllamaTextConfig, width: int, dtype: DType) -> RMSNorm:
    """Llama's RMSNorm: the weight multiplies after the cast back to ``dtype``."""
    return RMSNorm(width, dtype, config.rms_norm_eps, multiply_before_cast=False)


class MllamaCrossAttentionKeysValues(Sharded):
    """The image side of one MllamaTextCrossAttention: k_proj, k_norm, v_proj."""

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
        """Stores keys and values of ``[rows of all images, hidden]`` into the pool.

        Args:
            layer_idx: uint32 scalar, index among the cross-attention layers.
            cross_attention_states: The projected vision states of all images, on each
                device.
            writes: Where each image's rows go, on each device.

        Returns:
            The next layer's ``layer_idx``: MAX rejects a subgraph of whose results
            none is used.
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
        """One device's part: the keys and values of its heads."""
        rows, _ = cross_attention_states.shape
        shape = [rows, self.num_key_value_heads, self.head_dim]
        key = self.k_norm(ops.reshape(self.k_proj(cross_attention_states), shape))
        value = ops.reshape(self.v_proj(cross_attention_states), shape)
        image_cache = write.pages.kv_blocks
        if supports(self.head_dim, key.dtype, image_cache.dtype, key.device):
            store_image_kv(
                image_cache,
                key,
                value,
                layer_idx,
                table=write.pages.lookup_table,
                patch_offsets=write.patch_offsets,
                starts=write.pages.cache_lengths,
            )
            return
        store_k_cache_ragged(write.pages, key, write.patch_offsets, layer_idx)
        store_v_cache_ragged(write.pages, value, write.patch_offsets, layer_idx)


class MllamaTextCrossAttention(Module):
    """The text side of cross-attention: q_proj, q_norm, attention, o_proj."""

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
        """``[text rows, hidden]`` to the device's share of the same shape.

        Rows that see no image come out finite but meaningless.
        """
        rows = hidden_states.shape[0]
        query = ops.reshape(
            self.q_proj(hidden_states), [rows, self.num_heads, self.head_dim]
        )
        return self.o_proj(
            ops.reshape(
                self.attended(layer_idx, query, read),
                [rows, self.num_heads * self.head_dim],
            )
        )

    def attended(
        self, layer_idx: TensorValue, query: TensorValue, read: ImageReadValues
    ) -> TensorValue:
        """q_norm and attention of ``[text rows, heads, head dim]``."""
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

    Rows that precede every image leave the layer exactly as they entered, as in
    Meta's original code.  transformers lets such rows attend uniformly to the image
    and takes out the MLP only.
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
        """``[text rows, hidden]`` on each device to the same shape.

        Args:
            layer_idx: uint32 index among the cross-attention layers.
            hidden_states: The rows, on each device.
            reads: What they attend to, on each device.
            signals: As in :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
        """
        attended = all_reduce(
            [
                shard.cross_attn(layer_idx, shard.input_layernorm(states), read)
                for shard, states, read in zip(
                    self.shards, hidden_states, reads, strict=True
                )
            ],
            signals,
        )
        seen = [
            states + _for_rows(read, ops.tanh(shard.cross_attn_attn_gate) * attention)
            for shard, states, attention, read in zip(
                self.shards, hidden_states, attended, reads, strict=True
            )
        ]
        mixed = feed_forward_sum(self.shards, seen, signals)
        changed = [
            states + _for_rows(read, ops.tanh(shard.cross_attn_mlp_gate) * mlp)
            for shard, states, mlp, read in zip(
                self.shards, seen, mixed, reads, strict=True
            )
        ]
        # A selection, not a product: zero times a non-finite value is not zero.
        return [
            ops.where(read.image_mask, states, entered)
            if read.image_mask.dtype is DType.bool
            else states
            for states, entered, read in zip(changed, hidden_states, reads, strict=True)
        ]


def _for_rows(read: ImageReadValues, change: TensorValue) -> TensorValue:
    """A change that is none to rows without an image, where these aren't selected."""
    if read.image_mask.dtype is DType.bool:
        return change
    return change * read.image_mask.cast(change.dtype)
