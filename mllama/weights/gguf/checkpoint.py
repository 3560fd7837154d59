"""Checks and reads a GGUF file in Ollama's layout."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError, quoted
from mllama.kernels.ops.gguf_quantize import FORMATS, quantize
from mllama.utils.bfloat16 import as_floats
from mllama.weights.gguf.file import FLOAT_DTYPES, OLD_LAYOUT, GgufFile
from mllama.weights.gguf.names import stored_tensors
from mllama.weights.gguf.writing import ARCHITECTURE, LLAMA_ARCHITECTURE
from mllama.weights.names import expected_tensors
from mllama.weights.quantization_plan import EMBEDDING

logger = logging.getLogger("mllama")

_REPLACEMENT = GGMLQuantizationType.Q6_K
"""The format that matrices are converted to if their own has no kernel."""

_BYTES_AT_ONCE = 1 << 22
"""Size of the quantized rows that are converted together."""


@dataclass(frozen=True)
class LoadedTensor:
    """A tensor as the graphs take it.

    Attributes:
        values: float32 of the tensor's shape, or uint8 ``[rows, bytes of a row]``.
        format: ``Q4_0``, ``Q4_K`` or ``Q6_K`` for quantized values, None for floats.
    """

    values: npt.NDArray[Any]
    format: str | None = None


def open_gguf(path: Path) -> GgufFile:
    """Opens a GGUF file of this model.

    Raises:
        CheckpointError: If it is damaged or of another model.
    """
    file = GgufFile(path)
    architecture = file.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{path} is a model of the architecture {quoted(architecture)}, not "
            f"{ARCHITECTURE!r}"
        )
    for prefix, side in (("v.", "text"), ("blk.", "vision")):
        if not any(name.startswith(prefix) for name in file.tensors):
            raise CheckpointError(f"{path} has only the {side} side, {OLD_LAYOUT}")
    return file


def open_llama_gguf(path: Path) -> GgufFile:
    """Opens a GGUF file of a text-only Llama.

    Raises:
        CheckpointError: If it is damaged or of another model.
    """
    file = GgufFile(path)
    architecture = file.metadata.get("general.architecture")
    if architecture != LLAMA_ARCHITECTURE:
        raise CheckpointError(
            f"{path} is a model of the architecture {quoted(architecture)}; use a "
            f"text-only Llama, {LLAMA_ARCHITECTURE!r}, such as Llama 3.2 1B"
        )
    return file


def main_encoding(file: GgufFile) -> str:
    """Returns the encoding of most of the text side: q4_0, q4_k, q6_k or float32."""
    encodings: Counter[str] = Counter()
    for kind, size in _text_sizes(file).items():
        encodings[_encoding(kind)] += size
    return encodings.most_common(1)[0][0] if encodings else "float32"


def encoding_reason(file: GgufFile) -> str:
    """Returns where the encoding of most of the text side is from."""
    encoding = main_encoding(file)
    kinds = [
        (size, kind.name.lower())
        for kind, size in _text_sizes(file).items()
        if _encoding(kind) == encoding
    ]
    _, name = max(kinds)
    if name == encoding:
        return "as in the file"
    return f"the file's {name} has no kernel"


def _text_sizes(file: GgufFile) -> Counter[GGMLQuantizationType]:
    """Returns the bytes of the text side's layers by their format."""
    sizes: Counter[GGMLQuantizationType] = Counter()
    for name, tensor in file.tensors.items():
        if name.startswith("blk."):
            sizes[tensor.kind] += tensor.nbytes
    return sizes


def _encoding(kind: GGMLQuantizationType) -> str:
    """Returns what a tensor of the text side is served in."""
    if kind in FLOAT_DTYPES:
        return "float32"
    return (kind if kind in FORMATS else _REPLACEMENT).name.lower()


def check_tensors(file: GgufFile, config: MllamaConfig) -> None:
    """Checks that a file has every tensor of the model in a usable format and shape.

    Raises:
        CheckpointError: If a tensor is missing, or has an unknown format or another
            shape.
    """
    expected = expected_tensors(config)
    for name, stored in stored_tensors(config).items():
        tensor = file.tensors.get(stored.name)
        if tensor is None:
            raise CheckpointError(
                f"{file.path} lacks the tensor {stored.name}; it is incomplete or of "
                "another model"
            )
        if not _is_readable(tensor.kind):
            raise CheckpointError(
                f"{file.path}: {stored.name} is in {tensor.kind.name.lower()}, which "
                "can't be read here; convert the original checkpoint with "
                "`mllama quantize`"
            )
        # Other tensors are reshaped when they are read.
        must_match = len(expected[name]) == 2 and _is_text(name)
        if math.prod(tensor.shape) != math.prod(expected[name]) or (
            must_match and tensor.shape != expected[name]
        ):
            raise CheckpointError(
                f"{file.path}: {stored.name} has shape {list(tensor.shape)}, but the "
                f"configuration requires {list(expected[name])}; they belong to "
                "different models"
            )


def _is_text(name: str) -> bool:
    """Returns True if a canonical name is that of a tensor of the text side."""
    return name.startswith(("language_model.", "lm_head."))


@functools.cache
def _is_readable(kind: GGMLQuantizationType) -> bool:
    """Returns True if values of a type can be read; the gguf package knows most."""
    if kind in FLOAT_DTYPES:
        return True
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def read_tensors(
    file: GgufFile, config: MllamaConfig
) -> Iterator[tuple[str, LoadedTensor]]:
    """Yields the model's tensors by canonical name, in the form that is served.

    Quantized tensors of the text side keep their format if MAX has a kernel for it.
    Others are converted to q6_k, which is logged.
    """
    expected = expected_tensors(config)
    formats = quantized_formats(file, config)
    converted: Counter[str] = Counter()
    raw_gates = _raw_gates(file)
    for name, place in stored_tensors(config).items():
        served = formats.get(name)
        kind = file.tensors[place.name].kind
        raw = file.raw(place.name)
        if served is None:
            floats = _as_floats(raw, kind).reshape(expected[name])
            if place.name not in raw_gates:
                floats = place.from_ollama_layout(floats).astype(np.float32, copy=False)
            yield name, LoadedTensor(floats)
            continue
        if kind is not served:
            converted[kind.name.lower()] += 1
            raw = _convert(raw, kind, served, name)
        blocks = place.from_ollama_layout(raw)
        yield name, LoadedTensor(np.ascontiguousarray(blocks), served.name)
    for kind_name, count in converted.items():
        logger.info(
            "converted %d tensors from %s, for which there is no kernel, to q6_k",
            count,
            kind_name,
        )


def quantized_formats(
    file: GgufFile, config: MllamaConfig
) -> dict[str, GGMLQuantizationType]:
    """Returns the format of each tensor that is served quantized, by canonical name;
    the others are floats."""
    unfused = _projections_with_floats(file, config)
    served: dict[str, GGMLQuantizationType] = {}
    for name, place in stored_tensors(config).items():
        kind = file.tensors[place.name].kind
        if kind not in FLOAT_DTYPES and _is_text(name) and name not in unfused:
            served[name] = kind if _has_kernel(kind, name) else _REPLACEMENT
    return served


def _has_kernel(kind: GGMLQuantizationType, name: str) -> bool:
    """Returns True if MAX has a kernel for a format of a tensor.

    MAX's kernel that looks up embeddings in q4_0 writes beyond its memory.
    """
    if name == EMBEDDING and kind is GGMLQuantizationType.Q4_0:
        return False
    return kind in FORMATS


def _projections_with_floats(file: GgufFile, config: MllamaConfig) -> set[str]:
    """Returns the query, key and value projections of layers where one is in floats.

    MAX multiplies with all three at once (fused QKV), so they must all be quantized or
    all be floats.
    """
    stored = stored_tensors(config)
    names_of_floats: set[str] = set()
    for index in range(config.text_config.num_hidden_layers):
        names = [
            f"language_model.layers.{index}.self_attn.{p}_proj.weight" for p in "qkv"
        ]
        kinds = [
            file.tensors[stored[name].name].kind for name in names if name in stored
        ]
        if any(kind in FLOAT_DTYPES for kind in kinds):
            names_of_floats.update(names)
    return names_of_floats


def _raw_gates(file: GgufFile) -> set[str]:
    """Returns the gates of the global vision layers if they are stored without tanh.

    Ollama 0.7.0 converted them so; 0.7.1 corrected it.  A file shows it only if a gate
    is outside the range of tanh.
    """
    gates = [
        name
        for name, tensor in file.tensors.items()
        if name.startswith("v.global.blk.")
        and name.endswith("_gate")
        and tensor.kind in FLOAT_DTYPES
    ]
    if any(
        np.abs(_as_floats(file.raw(name), file.tensors[name].kind)).max() > 1
        for name in gates
    ):
        logger.info("%s has raw gates, as Ollama 0.7.0 wrote them", file.path)
        return set(gates)
    return set()


def _convert(
    raw: npt.NDArray[Any],
    kind: GGMLQuantizationType,
    served: GGMLQuantizationType,
    name: str,
) -> npt.NDArray[np.uint8]:
    """Converts rows to another format, some at a time to save memory."""
    step = max(1, _BYTES_AT_ONCE // raw.shape[1])
    parts = [
        quantize(_as_floats(raw[start : start + step], kind), served, name)
        for start in range(0, len(raw), step)
    ]
    return np.concatenate(parts)


def _as_floats(
    raw: npt.NDArray[Any], kind: GGMLQuantizationType
) -> npt.NDArray[np.float32]:
    return as_floats(raw if kind in FLOAT_DTYPES else dequantize(raw, kind))
