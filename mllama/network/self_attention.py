"""Self-attention layers: MAX's own for Llama, over floats or over GGUF blocks."""

from __future__ import annotations

from max.dtype import DType
from max.graph import DeviceRef, Weight
from max.nn.attention import AttentionWithRope, GGUFQAttentionWithRope
from max.nn.kv_cache import MHAKVCacheParams
from max.nn.rotary_embedding import (
    Llama3RopeScalingParams,
    Llama3RotaryEmbedding,
    RotaryEmbedding,
)
from max.nn.transformer import TransformerBlock

from mllama.config import MllamaTextConfig
from mllama.network.cross_attention import text_norm
from mllama.network.projections import (
    Encodings,
    block_weight,
    feed_forward,
    projection,
)


class QuantisedSelfAttention(GGUFQAttentionWithRope):
    """MAX's attention over blocks, whose three projections may differ in format."""

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

        def weight(name: str, rows: int) -> Weight:
            encoding = encodings[f"{path}.{name}"]
            return block_weight(name, rows, width, encoding, device)

        self.q_proj_weight = weight("q_proj.weight", queries)
        self.k_proj_weight = weight("k_proj.weight", keys)
        self.v_proj_weight = weight("v_proj.weight", keys)
        self.o_proj = projection(
            encodings, f"{path}.o_proj", queries, width, DType.float32, device
        )


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


def self_attention_layer(
    config: MllamaTextConfig,
    rope: Llama3RotaryEmbedding,
    kv_params: MHAKVCacheParams,
    dtype: DType,
    device: DeviceRef,
    encodings: Encodings,
    path: str,
) -> TransformerBlock:
    """MAX's Llama layer, over floats or over blocks."""
    attention: AttentionWithRope
    if f"{path}.self_attn.q_proj.weight" in encodings:
        attention = QuantisedSelfAttention(
            encodings,
            f"{path}.self_attn",
            rope,
            kv_params,
            config.hidden_size,
            config.num_attention_heads,
            device,
        )
    else:
        attention = AttentionWithRope(
            rope=rope,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            hidden_size=config.hidden_size,
            kv_params=kv_params,
            dtype=dtype,
            devices=[device],
        )
        attention.o_proj = projection(
            encodings,
            f"{path}.self_attn.o_proj",
            config.num_attention_heads * config.head_dim,
            config.hidden_size,
            dtype,
            device,
        )
    return TransformerBlock(
        attention=attention,
        mlp=feed_forward(
            encodings,
            f"{path}.mlp",
            config.hidden_size,
            config.intermediate_size,
            dtype,
            device,
        ),
        attention_norm=text_norm(config, config.hidden_size, dtype),
        mlp_norm=text_norm(config, config.hidden_size, dtype),
    )
