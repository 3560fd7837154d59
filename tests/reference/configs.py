"""Model configurations of the test checkpoints, and their spellings in config.json."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from transformers import MllamaConfig

from demo.training.architecture import configuration

Spelling = Literal["old", "new"]

_REPOSITORY = Path(__file__).resolve().parents[2]

DEMO_MODEL = _REPOSITORY / "mllama" / "demo_model" / "checkpoint"

ASPECT_RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]

# The values of the published 11B and 90B checkpoints.
ROPE_THETA = 500_000.0
ROPE_SCALING: dict[str, Any] = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}

TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "hidden_act",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "rms_norm_eps",
    "max_position_embeddings",
    "initializer_range",
    "use_cache",
    "tie_word_embeddings",
    "cross_attention_layers",
    "dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
VISION_KEYS = (
    "hidden_size",
    "hidden_act",
    "num_hidden_layers",
    "num_global_layers",
    "attention_heads",
    "num_channels",
    "intermediate_size",
    "vision_output_dim",
    "image_size",
    "patch_size",
    "norm_eps",
    "max_num_tiles",
    "intermediate_layers_indices",
    "supported_aspect_ratios",
    "initializer_range",
)


def build_config(vision: dict[str, Any], text: dict[str, Any]) -> MllamaConfig:
    """Builds a config from the given fields, with the published values for the rest.

    ``vision_output_dim``, ``supported_aspect_ratios``, the rope settings and the
    id of ``<|image|>`` (== ``vocab_size``) are derived unless given.
    """
    vision = {"max_num_tiles": 4, "supported_aspect_ratios": ASPECT_RATIOS, **vision}
    states = 1 + len(vision["intermediate_layers_indices"])
    vision.setdefault("vision_output_dim", vision["hidden_size"] * states)
    last = text["vocab_size"] - 1  # write_checkpoint sets the tokenizer's own ids
    text = {
        "rope_parameters": {"rope_theta": ROPE_THETA, **ROPE_SCALING},
        "bos_token_id": last,
        "eos_token_id": last,
        "pad_token_id": last,
        **text,
    }
    return MllamaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=text["vocab_size"],
    )


def tiny_config(
    *, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None
) -> MllamaConfig:
    """Returns the demo model's dimensions, so that tests share its compiled graphs.

    They come from its ``config.json`` if the trained model exists, else from the
    settings of its training.  ``vision`` and ``text`` replace single fields, e.g.
    ``text={"rope_parameters": {...}}``.
    """
    if (DEMO_MODEL / "config.json").is_file():
        demo = MllamaConfig.from_pretrained(DEMO_MODEL)
    else:
        demo = configuration(defaultdict(int))
    vision_fields = {k: getattr(demo.vision_config, k) for k in VISION_KEYS}
    text_fields = {k: getattr(demo.text_config, k) for k in TEXT_KEYS}
    text_fields["rope_parameters"] = dict(demo.text_config.rope_parameters)
    return build_config(vision_fields | (vision or {}), text_fields | (text or {}))


def published_widths_config(
    vision_layers: int = 2,
    global_layers: int = 1,
    text_layers: int = 3,
    cross: list[int] | None = None,
    *,
    intermediate_layers: list[int] | None = None,
    vocab_size: int = 2048,
) -> MllamaConfig:
    """Returns 11B-Vision-Instruct's widths with few layers and a small vocabulary.

    ``intermediate_layers`` are the recorded vision layers (all by default, at most
    the published number of five), ``cross`` the cross-attention layers ([1]).
    """
    recorded = intermediate_layers or list(range(vision_layers))[:5]
    return build_config(
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "attention_heads": 16,
            "num_hidden_layers": vision_layers,
            "num_global_layers": global_layers,
            "image_size": 560,
            "patch_size": 14,
            "intermediate_layers_indices": recorded,
        },
        {
            "vocab_size": vocab_size,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "cross_attention_layers": [1] if cross is None else cross,
            "max_position_embeddings": 131_072,
        },
    )


def config_json(
    config: MllamaConfig, *, rope_spelling: Spelling, dtype: str
) -> dict[str, Any]:
    """Returns ``config`` in the spelling of the published files or of transformers 5.

    "old" has ``rope_theta``, ``rope_scaling`` and ``torch_dtype`` (in the outer and
    in both inner dictionaries), "new" has ``rope_parameters`` and ``dtype``.
    """
    rope = dict(config.text_config.rope_parameters)
    text = {k: getattr(config.text_config, k) for k in TEXT_KEYS}
    vision = {k: getattr(config.vision_config, k) for k in VISION_KEYS}
    outer: dict[str, Any] = {
        "architectures": ["MllamaForConditionalGeneration"],
        "image_token_index": config.image_token_index,
        "model_type": "mllama",
    }
    text["model_type"] = "mllama_text_model"
    vision["model_type"] = "mllama_vision_model"
    if rope_spelling == "old":
        text["rope_theta"] = rope.pop("rope_theta")
        text["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    else:
        text["rope_parameters"] = rope
    dtype_key = "torch_dtype" if rope_spelling == "old" else "dtype"
    for part in (outer, text, vision):
        part[dtype_key] = dtype
    outer["transformers_version"] = "4.45.0" if rope_spelling == "old" else "5.12.1"
    return outer | {"text_config": text, "vision_config": vision}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` in the format of Hugging Face's files."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
