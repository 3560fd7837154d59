"""The names and shapes of a checkpoint's tensors.

Canonical names are the module paths of transformers'
``MllamaForConditionalGeneration`` without the leading ``model.``.  Published
checkpoints use an older spelling, and adapters and training frameworks add prefixes;
:func:`canonical_name` knows them all.
"""

from __future__ import annotations

from mllama.config import MllamaConfig, MllamaTextConfig, MllamaVisionConfig
from mllama.weights.llama_config import LlamaConfig

Shapes = dict[str, tuple[int, ...]]

_PREFIXES = ("base_model.model.", "module.", "_orig_mod.", "model.")
"""Prefixes of a module path, outermost first."""

_OLD_SPELLINGS = (
    ("language_model.model.", "language_model."),
    ("language_model.lm_head.", "lm_head."),
)
"""Spellings of transformers before 4.52, which Meta's checkpoints have."""

_ROOTS = ("language_model.", "lm_head.", "vision_model.", "multi_modal_projector.")

_LLAMA_ROOTS = ("embed_tokens.", "layers.", "norm.")
"""Modules of a text-only Llama that are those of the language model here."""


def canonical_name(name: str) -> str | None:
    """Returns a tensor's canonical name, or None if it isn't one of this model."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in _OLD_SPELLINGS:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name if name.startswith(_ROOTS) else None


def canonical_llama_name(name: str) -> str | None:
    """Returns the canonical name of a tensor of a text-only Llama, or None."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name.startswith(_LLAMA_ROOTS):
        return f"language_model.{name}"
    return name if name.startswith("lm_head.") else None


def expected_tensors(config: MllamaConfig) -> Shapes:
    """Returns the shape of every tensor that the model needs, by canonical name.

    With tied embeddings the language-model head has no separate tensor.  A text-only
    Llama has the text side alone.
    """
    text = config.text_config
    shapes = _language_model(text)
    if not isinstance(config, LlamaConfig):
        shapes = {**_vision_side(config), **shapes}
    if not text.tie_word_embeddings:
        shapes["lm_head.weight"] = (text.vocab_size, text.hidden_size)
    return shapes


def _vision_side(config: MllamaConfig) -> Shapes:
    width, vision = config.text_config.hidden_size, config.vision_config
    return {
        **_vision_model(vision),
        "multi_modal_projector.weight": (width, vision.vision_output_dim),
        "multi_modal_projector.bias": (width,),
    }


def _language_model(config: MllamaTextConfig) -> Shapes:
    width, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    projections: Shapes = {
        "q_proj.weight": (queries, width),
        "k_proj.weight": (keys, width),
        "v_proj.weight": (keys, width),
        "o_proj.weight": (width, queries),
    }
    every_layer: Shapes = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }
    self_attention = {f"self_attn.{k}": v for k, v in projections.items()}
    cross_attention: Shapes = {
        **{f"cross_attn.{k}": v for k, v in projections.items()},
        "cross_attn.q_norm.weight": (config.head_dim,),
        "cross_attn.k_norm.weight": (config.head_dim,),
        "cross_attn_attn_gate": (1,),
        "cross_attn_mlp_gate": (1,),
    }
    shapes: Shapes = {
        "language_model.embed_tokens.weight": (config.num_embeddings, width),
        "language_model.norm.weight": (width,),
    }
    for index in range(config.num_hidden_layers):
        is_cross = index in config.cross_attention_layers
        layer = {**every_layer, **(cross_attention if is_cross else self_attention)}
        for name, shape in layer.items():
            shapes[f"language_model.layers.{index}.{name}"] = shape
    return shapes


def _vision_model(config: MllamaVisionConfig) -> Shapes:
    width, inner = config.hidden_size, config.intermediate_size
    ids = config.max_aspect_ratio_id + 1
    tiles, patches, patch = config.max_num_tiles, config.num_patches, config.patch_size
    norm: Shapes = {"weight": (width,), "bias": (width,)}
    layer: Shapes = {
        **{f"self_attn.{p}_proj.weight": (width, width) for p in "qkvo"},
        "mlp.fc1.weight": (inner, width),
        "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (width, inner),
        "mlp.fc2.bias": (width,),
        **{f"input_layernorm.{k}": v for k, v in norm.items()},
        **{f"post_attention_layernorm.{k}": v for k, v in norm.items()},
    }
    shapes: Shapes = {
        "class_embedding": (width,),
        "patch_embedding.weight": (width, config.num_channels, patch, patch),
        "gated_positional_embedding.gate": (1,),
        "gated_positional_embedding.embedding": (patches, width),
        "gated_positional_embedding.tile_embedding.weight": (
            ids,
            tiles * patches * width,
        ),
        **{f"layernorm_pre.{k}": v for k, v in norm.items()},
        **{f"layernorm_post.{k}": v for k, v in norm.items()},
    }
    for place in ("pre", "post"):
        shapes[f"{place}_tile_positional_embedding.gate"] = (1,)
        shapes[f"{place}_tile_positional_embedding.embedding.weight"] = (
            ids,
            tiles * width,
        )
    for index in range(config.num_hidden_layers):
        shapes |= {f"transformer.layers.{index}.{k}": v for k, v in layer.items()}
    gates: Shapes = {"gate_attn": (1,), "gate_ffn": (1,)}
    for index in range(config.num_global_layers):
        shapes |= {
            f"global_transformer.layers.{index}.{k}": v
            for k, v in {**layer, **gates}.items()
        }
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}
