"""Which tensors are quantized, and to which format: llama.cpp's usual mix."""

from __future__ import annotations

from typing import Final

from gguf import GGMLQuantizationType

from mllama.config import MllamaConfig

GGUF_ENCODINGS: Final = ("q4_0", "q4_k", "q6_k")
"""Encodings whose files are GGUF blocks; MAX runs them on CPUs."""

EMBEDDING: Final = "language_model.embed_tokens.weight"

PROJECTOR: Final = "multi_modal_projector.weight"

_SENSITIVE = GGMLQuantizationType.Q6_K
"""The format of the sensitive tensors, whatever was asked for."""


def quantization_plan(
    config: MllamaConfig, encoding: str
) -> dict[str, GGMLQuantizationType]:
    """Format of every tensor that is quantized, by its canonical name.

    Matrices of the text side only.  The head is sensitive in every mix; of q4_k also
    the values' projection and the last matrix of the feed-forward network, in the
    first and the last eighth of the layers and in every third between, as in
    llama.cpp's Q4_K_M.  Vision, norms and gates stay floats.

    Args:
        config: The model's.
        encoding: One of ``GGUF_ENCODINGS``; of floats nothing is quantized.
    """
    if encoding not in GGUF_ENCODINGS:
        return {}
    text = config.text_config
    usual = GGMLQuantizationType[encoding.upper()]
    # MAX's kernel that looks up rows of q4_0 writes beyond its memory.
    plan = {EMBEDDING: _SENSITIVE if encoding == "q4_0" else usual}
    for index in range(text.num_hidden_layers):
        crosses = index in text.cross_attention_layers
        attention = "cross_attn" if crosses else "self_attn"
        sensitive = encoding == "q4_k" and _needs_more_bits(
            index, text.num_hidden_layers
        )
        for name in (
            *(f"{attention}.{p}_proj" for p in "qkvo"),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        ):
            more = sensitive and name in ("self_attn.v_proj", "mlp.down_proj")
            plan[f"language_model.layers.{index}.{name}.weight"] = (
                _SENSITIVE if more else usual
            )
    if not text.tie_word_embeddings:
        plan["lm_head.weight"] = _SENSITIVE
    return plan


def int8_vision_formats(config: MllamaConfig) -> dict[str, GGMLQuantizationType]:
    """What is bytes, by canonical name, if the vision side is asked for in them: the
    matrices of the encoder's layers, and the projector."""
    layers = (
        ("transformer", config.vision_config.num_hidden_layers),
        ("global_transformer", config.vision_config.num_global_layers),
    )
    names = [
        f"vision_model.{stack}.layers.{index}.{name}.weight"
        for stack, count in layers
        for index in range(count)
        for name in (
            *(f"self_attn.{p}_proj" for p in "qkvo"),
            "mlp.fc1",
            "mlp.fc2",
        )
    ]
    return dict.fromkeys([*names, PROJECTOR], GGMLQuantizationType.I8)


def _needs_more_bits(index: int, layers: int) -> bool:
    eighth = layers // 8
    return index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
