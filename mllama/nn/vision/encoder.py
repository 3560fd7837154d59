"""The transformer layers of the vision encoder.

Source: transformers' ``modeling_mllama.py`` (MllamaVisionEncoderLayer and below).

The reference masks attention with ``m @ m^T * min`` where m marks padding, so only
padding-to-padding pairs are blocked: real patches attend to everything, padding
attends to the real patches.  With the real rows ordered first this needs no mask.
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
    """Multi-head attention without bias, padding rows last and unseen by padding."""

    def __init__(
        self,
        config: MllamaVisionConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        in_bytes: bool,
    ) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.attention_heads
        self.rounds = in_bytes
        width, inner = config.hidden_size, config.hidden_size // num_shards
        self.q_proj, self.k_proj, self.v_proj = (
            vision_linear(width, inner, dtype, device, in_bytes=in_bytes)
            for _ in range(3)
        )
        self.o_proj = vision_linear(inner, width, dtype, device, in_bytes=in_bytes)

    def __call__(
        self,
        hidden_state: TensorValue,
        real_rows: TensorValue,
        padding_rows: TensorValue,
    ) -> TensorValue:
        """Attends over ``[images, rows, hidden]``: the device's share of the result.

        Args:
            hidden_state: The rows, real ones first.
            real_rows: Any tensor ``[real rows]``; only its length counts.
            padding_rows: Any tensor ``[padding rows]``; only its length counts.
        """
        attended = padded_attention(
            self.q_proj(hidden_state),
            self.k_proj(hidden_state),
            self.v_proj(hidden_state),
            real_rows,
            padding_rows,
            self.head_dim,
            rounds=self.rounds,
        )
        return self.o_proj(attended)


class MllamaVisionMLP(Module):
    """Two biased linears around an exact GELU."""

    def __init__(
        self,
        config: MllamaVisionConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        in_bytes: bool,
    ) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size // num_shards
        self.fc1, self.fc2 = (
            vision_linear(*widths, dtype, device, in_bytes=in_bytes, has_bias=True)
            for widths in ((width, inner), (inner, width))
        )

    def __call__(self, hidden_state: TensorValue) -> TensorValue:
        """``[..., hidden]`` to the device's share of the same shape."""
        return self.fc2(ops.gelu(self.fc1(hidden_state)))


class MllamaVisionEncoderLayer(Sharded):
    """Pre-norm attention and MLP; the global layers gate both branches with tanh."""

    def __init__(
        self,
        config: MllamaVisionConfig,
        dtype: DType,
        device: DeviceRef,
        num_shards: int,
        *,
        is_gated: bool,
        in_bytes: bool,
    ) -> None:
        super().__init__()
        self.is_gated = is_gated
        self.self_attn = MllamaVisionAttention(
            config, dtype, device, num_shards, in_bytes=in_bytes
        )
        self.mlp = MllamaVisionMLP(config, dtype, device, num_shards, in_bytes=in_bytes)
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
        real_rows: TensorValue,
        padding_rows: TensorValue,
        signals: Sequence[BufferValue],
    ) -> list[TensorValue]:
        """``[images, rows, hidden]`` on each device to the same shape.

        Args:
            hidden_states: The rows, real ones first, on each device.
            real_rows: As in :class:`MllamaVisionAttention`.
            padding_rows: As there.
            signals: As in :func:`~mllama.nn.layers.tensor_parallel.signal_types`.
        """
        attended = all_reduce(
            [
                shard.self_attn(shard.input_layernorm(states), real_rows, padding_rows)
                for shard, states in zip(self.shards, hidden_states, strict=True)
            ],
            signals,
        )
        if self.is_gated:
            attended = [
                ops.tanh(shard.gate_attn) * attention
                for shard, attention in zip(self.shards, attended, strict=True)
            ]
        seen = [
            states + attention
            for states, attention in zip(hidden_states, attended, strict=True)
        ]
        mixed = feed_forward_sum(self.shards, seen, signals)
        if self.is_gated:
            mixed = [
                ops.tanh(shard.gate_ffn) * mlp
                for shard, mlp in zip(self.shards, mixed, strict=True)
            ]
        return [states + mlp for states, mlp in zip(seen, mixed, strict=True)]
