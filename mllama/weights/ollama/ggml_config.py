"""Derives config.json and preprocessor_config.json from ggml's keys.

Settings that the keys leave out are the same in every model of the family: activations,
pixel normalization, tile arrangements.
"""

from __future__ import annotations

from typing import Any, Final

from gguf import GGMLQuantizationType

from mllama.config import (
    ARCHITECTURE,
    MODEL_TYPE,
    NUM_EXTRA_EMBEDDINGS,
    MllamaConfig,
)
from mllama.errors import CheckpointError, ConfigError, quoted
from mllama.weights.gguf.file import GgufFile
from mllama.weights.ollama.ggml_keys import GgmlKeys
from mllama.weights.ollama.rope_factors import infer_scaling

ROPE_FACTORS: Final = "rope_freqs.weight"

_MAX_TILES = 64

_DTYPE = "bfloat16"
"""As in published checkpoints; a file's tensors decide how it is served."""

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Pixel normalization of OpenAI's CLIP, with which Meta's encoder was trained."""


def derived_config(
    file: GgufFile,
    *,
    image_token_id: int,
    bos_token_id: int,
    eos_token_ids: list[int],
    pad_token_id: int,
) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
        file: The file.
        image_token_id: The id of ``<|image|>``.
        bos_token_id: The token that a prompt begins with.
        eos_token_ids: The tokens that end an answer.
        pad_token_id: The token that fills a batch.

    Raises:
        CheckpointError: If a key is missing, or keys and tensors contradict each other.
    """
    keys = GgmlKeys(file)
    rows = vocabulary_rows(file)
    text: dict[str, Any] = {
        "model_type": "mllama_text_model",
        "vocab_size": rows,
        "hidden_size": keys.integer("mllama.embedding_length"),
        "intermediate_size": keys.integer("mllama.feed_forward_length"),
        "num_hidden_layers": keys.integer("mllama.block_count"),
        "num_attention_heads": keys.integer("mllama.attention.head_count"),
        "num_key_value_heads": keys.integer("mllama.attention.head_count_kv"),
        "cross_attention_layers": keys.integers(
            "mllama.attention.cross_attention_layers"
        ),
        "rms_norm_eps": keys.number("mllama.attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("mllama.rope.freq_base"),
        "max_position_embeddings": keys.integer("mllama.context_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_ids,
        "pad_token_id": pad_token_id,
        "torch_dtype": _DTYPE,
    }
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    text["rope_scaling"] = rope_scaling(file, "mllama", head_dim, text["rope_theta"])
    config = {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        # The version that spells the config so.  Without one transformers warns that
        # a large vocabulary may be one of Mistral's with a wrong regular expression.
        "transformers_version": "4.45.0",
        "image_token_index": image_token_id,
        "torch_dtype": _DTYPE,
        "text_config": text,
        "vision_config": _vision_config(keys),
    }
    try:
        MllamaConfig.from_dict(config)
    except ConfigError as error:
        reason = str(error).removeprefix("config.json contradicts itself: ")
        raise CheckpointError(
            f"{file.path}: the keys contradict each other: {reason}"
        ) from error
    return config


def vocabulary_rows(file: GgufFile) -> int:
    """Returns the number of tokens that the language-model head can produce.

    Raises:
        CheckpointError: If the embedding, the head and ``mllama.vocab_size`` don't fit
            together.
    """
    embedded = _rows(file, "token_embd.weight")
    if "output.weight" in file.tensors:
        rows = _rows(file, "output.weight")
    else:
        rows = embedded - NUM_EXTRA_EMBEDDINGS
    if rows < 1 or embedded != rows + NUM_EXTRA_EMBEDDINGS:
        raise CheckpointError(
            f"{file.path}: token_embd.weight has {embedded} rows, but a vocabulary of "
            f"{rows} needs {rows + NUM_EXTRA_EMBEDDINGS}; the file is damaged or of "
            "another model"
        )
    # A converter may have counted the image token, for which the head has no row.
    claimed = GgmlKeys(file).integer("mllama.vocab_size", rows)
    if not rows <= claimed <= embedded:
        raise CheckpointError(
            f"{file.path}: mllama.vocab_size is {claimed}, but the embedding and the "
            f"head are of a vocabulary of {rows}; the file is damaged"
        )
    return rows


def _rows(file: GgufFile, name: str) -> int:
    tensor = file.tensors.get(name)
    if tensor is None or len(tensor.shape) != 2:
        raise CheckpointError(
            f"{file.path} lacks the matrix {name}; it is incomplete or of another model"
        )
    return tensor.shape[0]


def rope_scaling(
    file: GgufFile, architecture: str, head_dim: int, theta: float
) -> dict[str, Any] | None:
    """Returns the RoPE scaling that the file's factors express, or None.

    Ollama's converter wrote the tensor only for the rope type llama3, and its engine
    didn't scale if there was none.

    Args:
        file: The file.
        architecture: The prefix of its keys.
        head_dim: Width of an attention head.
        theta: Base of the rotary embedding.

    Raises:
        CheckpointError: If it is scaled in another way.
    """
    keys = GgmlKeys(file)
    kind = keys.string(f"{architecture}.rope.scaling.type", "none")
    if kind != "none":
        raise CheckpointError(
            f"{file.path}: {architecture}.rope.scaling.type is {quoted(kind)}; the "
            f"factors of llama3 in {ROPE_FACTORS} are the only scaling that this model "
            "has"
        )
    rotated = keys.integer(f"{architecture}.rope.dimension_count", head_dim)
    if rotated != head_dim or head_dim % 2:
        raise CheckpointError(
            f"{file.path}: {architecture}.rope.dimension_count is {rotated}, but "
            f"attention heads are {head_dim} wide"
        )
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.kind is not GGMLQuantizationType.F32 or tensor.shape != (head_dim // 2,):
        raise CheckpointError(
            f"{file.path}: {ROPE_FACTORS} must be {head_dim // 2} numbers of float32, "
            f"not {list(tensor.shape)} of {tensor.kind.name.lower()}"
        )
    try:
        scaling = infer_scaling(file.raw(ROPE_FACTORS), theta)
    except ValueError as error:
        raise CheckpointError(
            f"{file.path}: {ROPE_FACTORS} can't be used: {error}"
        ) from error
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }


def _vision_config(keys: GgmlKeys) -> dict[str, Any]:
    width = keys.integer("mllama.vision.embedding_length")
    tiles = keys.integer("mllama.vision.max_num_tiles", most=_MAX_TILES)
    indices = keys.integers("mllama.vision.intermediate_layers_indices")
    return {
        "model_type": "mllama_vision_model",
        "hidden_size": width,
        "intermediate_size": keys.integer("mllama.vision.feed_forward_length"),
        "num_hidden_layers": keys.integer("mllama.vision.block_count"),
        "num_global_layers": keys.integer("mllama.vision.global.block_count"),
        "attention_heads": keys.integer("mllama.vision.attention.head_count"),
        "norm_eps": keys.number("mllama.vision.attention.layer_norm_epsilon"),
        "num_channels": keys.integer("mllama.vision.num_channels"),
        "image_size": keys.integer("mllama.vision.image_size"),
        "patch_size": keys.integer("mllama.vision.patch_size"),
        "max_num_tiles": tiles,
        "intermediate_layers_indices": indices,
        "supported_aspect_ratios": [
            [across, down]
            for across in range(1, tiles + 1)
            for down in range(1, tiles // across + 1)
        ],
        "vision_output_dim": width * (1 + len(indices)),
        "hidden_act": "gelu",
        "torch_dtype": _DTYPE,
    }


def derived_image_processor(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of preprocessor_config.json for a derived config."""
    vision = config["vision_config"]
    return {
        "image_processor_type": "MllamaImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "max_image_tiles": vision["max_num_tiles"],
        "resample": 2,  # bilinear
        "rescale_factor": 1 / 255,
        "size": {"height": vision["image_size"], "width": vision["image_size"]},
    }
