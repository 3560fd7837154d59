"""Reads the weights of the draft model."""

from __future__ import annotations

from collections.abc import Mapping

from max.dtype import DType
from max.graph.weights import WeightData, load_weights

from mllama.max_model.draft.settings import DraftSettings
from mllama.max_model.weight_adapters import as_weights, gguf_state_dict, with_head
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf.checkpoint import open_llama_gguf
from mllama.weights.llama_config import LlamaConfig
from mllama.weights.names import canonical_llama_name


def draft_state_dict(
    settings: DraftSettings, config: LlamaConfig, dtype: DType
) -> Mapping[str, WeightData]:
    """Returns the tensors under canonical names, the head included.

    GGUF blocks and floats stay in their files.  Quantized tensors of safetensors files
    are dequantized, one after the other.

    Args:
        settings: Names the files.
        config: The model's configuration.
        dtype: Data type of dequantized tensors, float32 or bfloat16.

    Raises:
        CheckpointError: If a file is damaged or of another model.
    """
    if settings.is_gguf:
        (path,) = settings.weight_path
        tensors = gguf_state_dict(path, config, open_file=open_llama_gguf)
        return with_head(tensors, config)
    assert settings.directory is not None
    checkpoint = open_checkpoint(
        settings.directory, settings.weight_path, read_config=LlamaConfig.from_path
    )
    quantized = checkpoint.quantized
    tensors = {
        name: weights.data()
        for source, weights in load_weights(list(settings.weight_path)).items()
        if (name := canonical_llama_name(source)) in checkpoint.tensors
        and name is not None
        and name not in quantized
    }
    for name, tensor in quantized.items():
        tensors[name] = as_weights(tensor.floats(), name, dtype)
    return with_head(tensors, config)
