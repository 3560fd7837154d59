"""The demo model's architecture and initial weights.

The architecture is Llama 3.2 Vision's in small.  The initial weights differ from
transformers' defaults (standard deviation 0.02, gates closed), which are meant for
wide models that are fine-tuned: a narrow model trained from scratch with them hardly
learns to see.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaVisionModel,
)
from transformers.models.mllama.configuration_mllama import (
    MllamaTextConfig,
    MllamaVisionConfig,
)

from demo.training.meta_semantics import use_meta_semantics

TILE = 64
PATCH = 16
MAX_TILES = 4
VOCABULARY = 768
"""Outputs of the LM head; ``<|image|>`` has this id, as in the real model."""


def configuration(ids: dict[str, int]) -> MllamaConfig:
    """Returns the configuration; ``ids`` maps special tokens to their ids."""
    vision = MllamaVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_global_layers=1,
        attention_heads=4,
        image_size=TILE,
        patch_size=PATCH,
        max_num_tiles=MAX_TILES,
        intermediate_layers_indices=[1, 3],
        vision_output_dim=128 * 3,
    )
    text = MllamaTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        cross_attention_layers=[1, 3],
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        },
        tie_word_embeddings=False,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=[ids["<|end_of_text|>"], ids["<|eot_id|>"]],
        pad_token_id=ids["<|finetune_right_pad_id|>"],
    )
    return MllamaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=VOCABULARY,
        tie_word_embeddings=False,
    )


def _grid_features(
    width: int, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Returns sines and cosines of two coordinates, ``width`` numbers a position."""
    count = width // 4
    rates = torch.exp(torch.linspace(math.log(2.0), math.log(0.08), count))
    parts = [
        function(coordinate[..., None] * rates)
        for coordinate in (rows, columns)
        for function in (torch.sin, torch.cos)
    ]
    return torch.cat(parts, dim=-1)


def _place_tiles(model: MllamaForConditionalGeneration) -> None:
    """Writes each patch's place in the whole picture into the tile embeddings.

    The table has an entry per aspect ratio and could learn this, but slowly for rare
    aspect ratios.
    """
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    position = model.model.vision_model.gated_positional_embedding
    table = position.tile_embedding.weight.detach().view(
        -1, vision.max_num_tiles, side * side + 1, vision.hidden_size
    )
    inner = torch.arange(side * side)
    for index, (high, wide) in enumerate(vision.supported_aspect_ratios, start=1):
        for tile in range(high * wide):
            rows = inner // side + side * (tile // wide)
            columns = inner % side + side * (tile % wide)
            features = _grid_features(vision.hidden_size, rows.float(), columns.float())
            table[index, tile, 1:] = features


def _patch_filters() -> torch.Tensor:
    """Returns filters for the patch embedding: (128, 3, PATCH, PATCH), cosines.

    Random filters respond mostly to a patch's mean color, which hides the edges that
    shapes consist of.  Each filter here responds to one frequency of brightness or of
    one of two color contrasts, with the high frequencies amplified.
    """
    steps = (torch.arange(PATCH) + 0.5) * math.pi / PATCH
    channels = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    channels = channels / channels.norm(dim=1, keepdim=True)
    filters = []
    # Color contrasts are weaker than brightness in any picture.
    for channel, count, gain in zip(
        channels, (56, 36, 36), (1.0, 2.5, 3.5), strict=True
    ):
        rates = [(u, v) for u in range(PATCH) for v in range(PATCH)]
        rates.sort(key=lambda rate: (math.hypot(*rate), rate))
        for u, v in rates[:count]:
            wave = torch.cos(u * steps)[:, None] * torch.cos(v * steps)[None, :]
            # An edge's share falls with about the square of the frequency.
            scale = gain * (1 + math.hypot(u, v)) ** 2 / (50 * wave.norm())
            filters.append(channel[:, None, None] * wave * scale)
    return torch.stack(filters)


def initialize(model: MllamaForConditionalGeneration) -> None:
    """Sets the initial weights, from torch's current random state."""
    layers = 6
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            std = fan_in**-0.5
            if name.endswith(("o_proj", "fc2", "down_proj")):
                std /= math.sqrt(layers)  # These add to the residual stream.
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
    with torch.no_grad():
        vision = model.model.vision_model
        vision.class_embedding.normal_(std=0.5)
        vision.patch_embedding.weight.copy_(_patch_filters())
        vision.gated_positional_embedding.embedding.normal_(std=0.3)
        vision.gated_positional_embedding.gate.fill_(1.0)
        vision.pre_tile_positional_embedding.gate.fill_(0.5)
        vision.post_tile_positional_embedding.gate.fill_(0.5)
        for layer in vision.global_transformer.layers:
            layer.gate_attn.fill_(1.0)
            layer.gate_ffn.fill_(1.0)
        _place_tiles(model)
        for index in model.config.text_config.cross_attention_layers:
            layer = model.model.language_model.layers[index]
            layer.cross_attn_attn_gate.fill_(0.7)
            layer.cross_attn_mlp_gate.fill_(0.7)


def build(ids: dict[str, int], seed: int) -> MllamaForConditionalGeneration:
    """Returns an untrained demo model with Meta's semantics."""
    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(configuration(ids))
    initialize(model)
    use_meta_semantics(model)
    return model


def follow_meta(*models: MllamaForConditionalGeneration) -> None:
    """Applies Meta's semantics, also to copies of models that have them.

    A copied module keeps the patched method bound to the module it was copied from, and
    would run the original's layers.
    """
    for model in models:
        use_meta_semantics(model)


def one_tile_view(model: MllamaForConditionalGeneration) -> MllamaVisionModel:
    """Returns the vision encoder for pictures of one tile, without three empty tiles.

    It shares all weights except the tile embeddings and costs a quarter.
    """
    whole = model.model.vision_model
    settings = whole.config.to_dict() | {
        "max_num_tiles": 1,
        "supported_aspect_ratios": [[1, 1]],
    }
    view = MllamaVisionModel(MllamaVisionConfig(**settings))
    with torch.no_grad():
        for name in (
            "gated_positional_embedding.tile_embedding",
            "pre_tile_positional_embedding.embedding",
            "post_tile_positional_embedding.embedding",
        ):
            small = view.get_submodule(name).weight
            small.copy_(whole.get_submodule(name).weight[:2, : small.shape[1]])
    for name in ("transformer", "global_transformer", "patch_embedding"):
        setattr(view, name, getattr(whole, name))
    for name in ("layernorm_pre", "layernorm_post", "class_embedding"):
        setattr(view, name, getattr(whole, name))
    view.gated_positional_embedding.embedding = (
        whole.gated_positional_embedding.embedding
    )
    for name in (
        "gated_positional_embedding",
        "pre_tile_positional_embedding",
        "post_tile_positional_embedding",
    ):
        view.get_submodule(name).gate = whole.get_submodule(name).gate
    return view
