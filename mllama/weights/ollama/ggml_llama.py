"""Reads the configuration of a text-only Llama from ggml's keys.

llama.cpp's converter and Ollama's write the same keys and tensors.
"""

from __future__ import annotations

from mllama.errors import CheckpointError, ConfigError
from mllama.weights.gguf.file import GgufFile
from mllama.weights.llama_config import LLAMA, LLAMA_TYPE, LlamaConfig
from mllama.weights.ollama.ggml_config import rope_scaling
from mllama.weights.ollama.ggml_keys import GgmlKeys

_EMBEDDING = "token_embd.weight"


def read_llama_config(file: GgufFile) -> LlamaConfig:
    """Returns the configuration that a file's keys and tensors describe.

    Raises:
        CheckpointError: If a key is missing, or keys and tensors contradict each other.
    """
    keys = GgmlKeys(file)
    embedding = file.tensors.get(_EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(
            f"{file.path} lacks the matrix {_EMBEDDING}; it has no text weights"
        )
    width = keys.integer("llama.embedding_length")
    heads = keys.integer("llama.attention.head_count")
    head_dim = keys.integer("llama.attention.key_length", max(1, width // heads))
    theta = keys.number("llama.rope.freq_base", 10000.0)
    values = {
        "architectures": [LLAMA],
        "model_type": LLAMA_TYPE,
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "intermediate_size": keys.integer("llama.feed_forward_length"),
        "num_hidden_layers": keys.integer("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": keys.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(file, "llama", head_dim, theta),
        "max_position_embeddings": keys.integer("llama.context_length"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    try:
        return LlamaConfig.from_dict(values)
    except ConfigError as error:
        reason = str(error).removeprefix("config.json contradicts itself: ")
        raise CheckpointError(
            f"{file.path}: the keys contradict each other: {reason}"
        ) from error
