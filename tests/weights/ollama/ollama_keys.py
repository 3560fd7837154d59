"""The metadata keys that Ollama's converter wrote for a checkpoint.

Independent of ``mllama.weights``, like :mod:`tests.weights.ollama.ollama_writer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def ollama_keys(folder: Path) -> dict[str, Any]:
    """Returns the keys of a checkpoint, ggml's and Ollama's."""
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    return {
        "general.architecture": "mllama",
        "general.file_type": 1,
        "general.quantization_version": 2,
        "mllama.vocab_size": text["vocab_size"],
        "mllama.block_count": text["num_hidden_layers"],
        "mllama.context_length": text["max_position_embeddings"],
        "mllama.embedding_length": text["hidden_size"],
        "mllama.feed_forward_length": text["intermediate_size"],
        "mllama.attention.head_count": text["num_attention_heads"],
        "mllama.attention.head_count_kv": text["num_key_value_heads"],
        "mllama.attention.layer_norm_rms_epsilon": text["rms_norm_eps"],
        "mllama.attention.cross_attention_layers": text["cross_attention_layers"],
        "mllama.rope.dimension_count": text["hidden_size"]
        // text["num_attention_heads"],
        "mllama.rope.freq_base": float(text["rope_theta"]),
        "mllama.vision.block_count": vision["num_hidden_layers"],
        "mllama.vision.global.block_count": vision["num_global_layers"],
        "mllama.vision.intermediate_layers_indices": vision[
            "intermediate_layers_indices"
        ],
        "mllama.vision.embedding_length": vision["hidden_size"],
        "mllama.vision.feed_forward_length": vision["intermediate_size"],
        "mllama.vision.attention.head_count": vision["attention_heads"],
        "mllama.vision.attention.layer_norm_epsilon": vision["norm_eps"],
        "mllama.vision.image_size": vision["image_size"],
        "mllama.vision.patch_size": vision["patch_size"],
        "mllama.vision.max_num_tiles": vision["max_num_tiles"],
        "mllama.vision.num_channels": vision["num_channels"],
        **tokenizer_keys(folder),
    }


def tokenizer_keys(folder: Path) -> dict[str, Any]:
    """Returns the tokenizer's keys; added tokens are control or user-defined tokens."""
    content = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    tokens = {index: (text, 1) for text, index in content["model"]["vocab"].items()}
    ids = {}
    for token in content["added_tokens"]:
        tokens[token["id"]] = (token["content"], 3 if token["special"] else 4)
        ids[token["content"]] = token["id"]
    order = sorted(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [tokens[i][0] for i in order],
        "tokenizer.ggml.scores": [float(i) for i in order],
        "tokenizer.ggml.token_type": [tokens[i][1] for i in order],
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in content["model"]["merges"]
        ],
        "tokenizer.ggml.bos_token_id": ids[settings["bos_token"]],
        "tokenizer.ggml.eos_token_id": ids[settings["eos_token"]],
        "tokenizer.ggml.eos_token_ids": generation["eos_token_id"],
        "tokenizer.ggml.padding_token_id": ids[settings["pad_token"]],
    }
