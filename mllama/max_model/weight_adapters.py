"""Maps the checkpoint's tensors to the weights of the two graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from max.driver import Buffer
from max.dtype import DType
from max.graph import Shape
from max.graph.quantization import QuantizationEncoding
from max.graph.weights import WeightData
from max.pipelines.lib import MAXModelConfig

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.max_model.checkpoint_files import local_directory
from mllama.nn.layers.linear import Encodings
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf.checkpoint import check_tensors, open_gguf, read_tensors
from mllama.weights.gguf.file import GgufFile
from mllama.weights.lora.adapter import open_adapter
from mllama.weights.names import canonical_name, expected_tensors

logger = logging.getLogger("mllama")

_FLOATS = (DType.float32, DType.bfloat16, DType.float16)


def canonical_state_dict(
    state_dict: Mapping[str, Any], **_: Any
) -> dict[str, WeightData]:
    """Returns tensors under their canonical names, without unused ones.

    MAX calls it for safetensors files.

    Args:
        state_dict: MAX's lazy weights by their names in the files.
    """
    result: dict[str, WeightData] = {}
    for name, weights in state_dict.items():
        canonical = canonical_name(name)
        if canonical is not None:
            result[canonical] = weights.data()
    return result


def empty_state_dict(state_dict: Mapping[str, Any], **_: Any) -> dict[str, WeightData]:
    """Returns nothing: :func:`gguf_state_dict` reads GGUF files instead.

    MAX calls it for GGUF files.
    """
    del state_dict
    return {}


def served_state_dict(
    state_dict: Mapping[str, WeightData],
    files: MAXModelConfig,
    config: MllamaConfig,
    dtype: DType,
    *,
    only_shapes: bool = False,
) -> Mapping[str, WeightData]:
    """Returns the tensors to serve, under canonical names.

    Quantized tensors of safetensors files are dequantized, one after the other.

    Args:
        state_dict: The tensors that MAX has read; none of a GGUF file.
        files: Names the weights' files.
        config: The model's configuration.
        dtype: Data type of dequantized tensors, float32 or bfloat16.
        only_shapes: Whether dequantized tensors may have any values, as for compiling.

    Raises:
        CheckpointError: If a file is damaged or of another model.
    """
    paths = files.weight_path
    if paths and paths[0].suffix == ".gguf":
        return gguf_state_dict(paths[0], config)
    if all(data.dtype in _FLOATS for data in state_dict.values()):
        return state_dict
    directory = local_directory(files.model_path, files.huggingface_model_revision)
    checkpoint = open_checkpoint(directory, paths)
    served = {
        name: data for name, data in state_dict.items() if name in checkpoint.tensors
    }
    for name, tensor in checkpoint.quantized.items():
        if only_shapes:
            served[name] = as_weights(np.zeros(tensor.shape, np.float32), name, dtype)
        else:
            served[name] = as_weights(tensor.floats(), name, dtype)
    return served


def formats(state_dict: Mapping[str, WeightData]) -> Encodings:
    """Returns the encoding of each tensor in GGUF blocks, by name."""
    return {
        name: data.quantization_encoding
        for name, data in state_dict.items()
        if data.quantization_encoding is not None
    }


def gguf_state_dict(
    path: Path,
    config: MllamaConfig,
    *,
    open_file: Callable[[Path], GgufFile] = open_gguf,
) -> dict[str, WeightData]:
    """Returns the tensors of a GGUF file, GGUF blocks as they are in the file.

    Args:
        path: The file.
        config: The model's configuration.
        open_file: Opens the file; that of a text-only Llama is another one.

    Raises:
        CheckpointError: If the file is damaged or of another model.
    """
    file = open_file(path)
    check_tensors(file, config)
    return {
        name: WeightData(
            matrix.values,
            name,
            DType.from_numpy(matrix.values.dtype),
            Shape(matrix.values.shape),
            quantization_encoding=None
            if matrix.format is None
            else QuantizationEncoding[matrix.format],
        )
        for name, matrix in read_tensors(file, config)
    }


def merge_adapter(
    state_dict: Mapping[str, WeightData],
    adapter_path: Path,
    config: MllamaConfig,
    dtype: DType,
) -> dict[str, WeightData]:
    """Merges a LoRA adapter into tensors, one at a time.

    Tensors that the adapter changes are copied to memory, which lives as long as the
    result.  The others stay in their files.

    Args:
        state_dict: Tensors by canonical name, all of them floats.
        adapter_path: The adapter's directory.
        config: The model's configuration.
        dtype: Data type of the merged tensors, float32 or bfloat16.

    Raises:
        CheckpointError: If the adapter or a tensor belongs to another model.
    """
    adapter = open_adapter(adapter_path, config)
    shapes = expected_tensors(config)
    merged = dict(state_dict)
    for name, change in adapter.changes.items():
        if name not in merged:
            continue  # Reported with the other missing tensors.
        data = merged[name]
        found = tuple(int(size) for size in data.shape)
        if found != shapes[name]:
            raise CheckpointError(
                f"{name} has shape {list(found)}, but config.json requires "
                f"{list(shapes[name])}; they belong to different models"
            )
        values = change.apply(name, _as_numpy(data))
        merged[name] = as_weights(values, name, dtype)
    logger.info(adapter.summary())
    return merged


def _as_numpy(data: WeightData) -> npt.NDArray[Any]:
    """Returns a float tensor without a copy; bfloat16 as its bits, in uint16."""
    if data.dtype not in _FLOATS:
        raise CheckpointError(
            f"{data.name} has the data type {data.dtype.name}; an adapter can only be "
            "merged into floats"
        )
    buffer = data.to_buffer()
    if data.dtype == DType.bfloat16:
        buffer = buffer.view(DType.uint16, buffer.shape)
    return np.asarray(buffer.to_numpy())


def as_weights(values: npt.NDArray[np.float32], name: str, dtype: DType) -> WeightData:
    """Returns values as weights of float32 or bfloat16."""
    if dtype == DType.float32:
        return WeightData(values, name, dtype, Shape(values.shape))
    if dtype != DType.bfloat16:
        raise ValueError(f"no weights of type {dtype}")
    rows = values.reshape(len(values), -1)
    bits = quantize(rows, GGMLQuantizationType.BF16).view(np.uint16)
    buffer = Buffer.from_numpy(bits).view(dtype, values.shape)
    return WeightData(buffer, name, dtype, Shape(values.shape))


def _select(
    state_dict: Mapping[str, WeightData], sources: Mapping[str, str], dtype: DType
) -> dict[str, WeightData]:
    """Returns the tensors of a graph, cast where the checkpoint's data type differs.

    Args:
        state_dict: Tensors by canonical name.
        sources: Canonical name of each of the graph's weights, by its name there.
        dtype: Data type of the graph's weights.

    Raises:
        CheckpointError: If a tensor is missing.
    """
    missing = [name for name in sources.values() if name not in state_dict]
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {missing[0]}"
            + (f" and {len(missing) - 1} more tensors" if missing[1:] else "")
            + "; download it again"
        )
    return {
        name: data
        if (data := state_dict[source]).quantization_encoding is not None
        or data.dtype is DType.int8
        else data.astype(dtype)
        for name, source in sources.items()
    }


def image_encoder_weights(
    state_dict: Mapping[str, WeightData],
    config: MllamaConfig,
    names: list[str],
    dtype: DType,
) -> dict[str, WeightData]:
    """Returns the weights of :class:`~mllama.nn.image_encoder.MllamaImageEncoder`.

    Its ``cross_attn.i`` makes the keys and values of the i-th cross-attention layer.
    """
    layers = config.text_config.cross_attention_layers
    sources = {}
    for name in names:
        head, _, rest = name.partition(".")
        if head == "cross_attn":
            index, _, tensor = rest.partition(".")
            source = f"language_model.layers.{layers[int(index)]}.cross_attn.{tensor}"
        else:
            source = name
        sources[name] = source
    return _select(state_dict, sources, dtype)


def text_decoder_weights(
    state_dict: Mapping[str, WeightData],
    config: MllamaConfig,
    names: list[str],
    dtype: DType,
) -> dict[str, WeightData]:
    """Returns the weights of :class:`~mllama.nn.text_decoder.MllamaTextDecoder`."""
    state_dict = with_head(state_dict, config)
    return _select(state_dict, {name: name for name in names}, dtype)


def with_head(
    state_dict: Mapping[str, WeightData], config: MllamaConfig
) -> Mapping[str, WeightData]:
    """Returns tensors with the language-model head, which may be the embedding."""
    name = "language_model.embed_tokens.weight"
    if not config.text_config.tie_word_embeddings or name not in state_dict:
        return state_dict
    embedding = state_dict[name]
    rows = embedding.to_buffer()[: config.text_config.vocab_size, :]
    head = WeightData(
        rows,
        "lm_head.weight",
        embedding.dtype,
        type(embedding.shape)(rows.shape),
        quantization_encoding=embedding.quantization_encoding,
    )
    return {**state_dict, "lm_head.weight": head}
