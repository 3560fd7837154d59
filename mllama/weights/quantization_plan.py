"""The formats that tensors are quantized to: llama.cpp's usual mix."""

from __future__ import annotations

from typing import Final

from gguf import GGMLQuantizationType

from mllama.config import MllamaConfig

GGUF_ENCODINGS: Final = ("q4_0", "q4_k", "q6_k")
"""The quantized encodings; MAX runs them on CPUs."""

EMBEDDING: Final = "language_model.embed_tokens.weight"

PROJECTOR: Final = "multi_modal_projector.weight"

_SENSITIVE = GGMLQuantizationType.Q6_K
"""The format of the sensitive tensors in every encoding."""


def quantization_plan(
    config: MllamaConfig, encoding: str
) -> dict[str, GGMLQuantizationType]:
    """Returns the format of every quantized tensor, by canonical name.

    Only matrices of the text side are quantized; the vision side, norms and gates stay
    floats.  The language-model head is sensitive in every mix.  In q4_k the value and
    down projections are sensitive too, in the first and last eighth of the layers and
    in every third layer between, as in llama.cpp's Q4_K_M.

    Args:
        config: The model's config.
        encoding: One of ``GGUF_ENCODINGS``; other encodings quantize nothing.
    """
    if encoding not in GGUF_ENCODINGS:
        return {}
    text = config.text_config
    usual = GGMLQuantizationType[encoding.upper()]
    # MAX's kernel that looks up embeddings in q4_0 writes beyond its memory.  A tied
    # embedding is the language-model head, too.
    is_sensitive = encoding == "q4_0" or text.tie_word_embeddings
    plan = {EMBEDDING: _SENSITIVE if is_sensitive else usual}
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
    """Returns the tensors that are int8 if the vision side is: the matrices of the
    vision encoder's layers, and the projector, by canonical name."""
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
