"""The transformer layers of the vision encoder.

Source: transformers' ``modeling_mllama.py`` (MllamaVisionEncoderLayer and below).

The reference masks attention with ``m @ m^T * min`` where m marks padding, so only
padding-to-padding pairs are blocked: real patches attend to everything, padding
attends to the real patches.  With the real patches first, this needs no mask.

States are ``[images * patches, hidden]`` everywhere but in attention.  On a GPU, a
matmul whose result is stored as ``[images, patches, hidden]`` is among the suspects of
a fault (``docs/gpu.md``).
"""

from __future__ import annotations

from collections.abc import Sequence

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorValue, Weight, ops
from max.nn.layer import Module
from max.nn.norm import LayerNorm

from mllama.config import MllamaVisionConfig
from mllama.nn.layers.tensor_parallel import Sharded, all_reduce, feed_forward_sum
from mllama.nn.vision.attention import padded_attention
from mllama.nn.vision.linear import vision_linear


class MllamaVisionAttention(Module):
    """Multi-head attention without bias; padding doesn't attend to padding."""

    def __init__(
        self,
        config: MllamaVisionConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        int8: bool,
    ) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.attention_heads
        self.patches = config.max_num_tiles * config.padded_patches
        self.allow_bfloat16 = int8
        width, inner = config.hidden_size, config.hidden_size // num_shards
        self.q_proj, self.k_proj, self.v_proj = (
            vision_linear(width, inner, dtype, device, int8=int8) for _ in range(3)
        )
        self.o_proj = vision_linear(inner, width, dtype, device, int8=int8)

    def __call__(
        self,
        hidden_state: TensorValue,
        real_patches: TensorValue,
        padding_patches: TensorValue,
    ) -> TensorValue:
        """Returns the device's partial sum of the attention among patches.

        Args:
            hidden_state: ``[images * patches, hidden]``, an image's real patches first.
            real_patches: Any tensor ``[real patches]``; only its length counts.
            padding_patches: Any tensor ``[padding patches]``; only its length counts.
        """
        rows = hidden_state.shape[0]
        images = rows // self.patches

        def split(states: TensorValue) -> TensorValue:
            width = states.shape[1]
            states = states.rebind([images * self.patches, width])
            return ops.reshape(states, [images, self.patches, width])

        attention = padded_attention(
            split(self.q_proj(hidden_state)),
            split(self.k_proj(hidden_state)),
            split(self.v_proj(hidden_state)),
            real_patches,
            padding_patches,
            self.head_dim,
            allow_bfloat16=self.allow_bfloat16,
        )
        width = attention.shape[2]
        flat = ops.reshape(attention, [images * self.patches, width])
        return self.o_proj(flat.rebind([rows, width]))


class MllamaVisionMLP(Module):
    """Two linear layers with bias around an exact GELU."""

    def __init__(
        self,
        config: MllamaVisionConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        int8: bool,
    ) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size // num_shards
        self.fc1 = vision_linear(
            width, inner, dtype, device, int8=int8, has_bias=True, has_gelu=True
        )
        self.fc2 = vision_linear(inner, width, dtype, device, int8=int8, has_bias=True)

    def __call__(self, hidden_state: TensorValue) -> TensorValue:
        """Maps ``[..., hidden]`` to the device's partial sum of the same shape."""
        return self.fc2(self.fc1(hidden_state))


class MllamaVisionEncoderLayer(Sharded):
    """Pre-norm attention and MLP; global layers gate both with tanh."""

    def __init__(
        self,
        config: MllamaVisionConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        is_gated: bool,
        int8: bool,
    ) -> None:
        super().__init__()
        self.is_gated = is_gated
        self.self_attn = MllamaVisionAttention(
            config, dtype, device, num_shards, int8=int8
        )
        self.mlp = MllamaVisionMLP(config, dtype, device, num_shards, int8=int8)
        self.input_layernorm = LayerNorm(
            config.hidden_size, [device], dtype, config.norm_eps
        )
        self.post_attention_layernorm = LayerNorm(
            config.hidden_size, [device], dtype, config.norm_eps
        )
        if is_gated:
            self.gate_attn = Weight("gate_attn", dtype, (1,), device)
            self.gate_ffn = Weight("gate_ffn", dtype, (1,), device)

    def __call__(
        self,
        hidden_states: Sequence[TensorValue],
        real_patches: TensorValue,
        padding_patches: TensorValue,
        signals: Sequence[BufferValue],
    ) -> list[TensorValue]:
        """Maps ``[images * patches, hidden]`` to the same shape, on each device.

        Args:
            hidden_states: The states of the patches, real ones of an image first, on
                each device.
            real_patches: Any tensor ``[real patches]``; only its length counts.
            padding_patches: Any tensor ``[padding patches]``; only its length counts.
            signals: The buffers of
                :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
        """
        attn_outputs = all_reduce(
            [
                shard.self_attn(
                    shard.input_layernorm(states), real_patches, padding_patches
                )
                for shard, states in zip(self.shards, hidden_states, strict=True)
            ],
            signals,
        )
        if self.is_gated:
            attn_outputs = [
                ops.tanh(shard.gate_attn) * attention
                for shard, attention in zip(self.shards, attn_outputs, strict=True)
            ]
        after_attention = [
            states + attention
            for states, attention in zip(hidden_states, attn_outputs, strict=True)
        ]
        mlp_outputs = feed_forward_sum(self.shards, after_attention, signals)
        if self.is_gated:
            mlp_outputs = [
                ops.tanh(shard.gate_ffn) * mlp
                for shard, mlp in zip(self.shards, mlp_outputs, strict=True)
            ]
        return [
            states + mlp
            for states, mlp in zip(after_attention, mlp_outputs, strict=True)
        ]
