"""A GGUF file in Ollama's layout as a checkpoint: checked and read."""

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
from mllama.weights.gguf.writing import ARCHITECTURE
from mllama.weights.names import expected_tensors
from mllama.weights.quantization_plan import EMBEDDING

logger = logging.getLogger("mllama")

_REPLACEMENT = GGMLQuantizationType.Q6_K
"""What matrices in blocks that MAX has no kernel for are converted to."""

_BYTES_AT_ONCE = 1 << 22
"""Of blocks that are converted together."""


@dataclass(frozen=True)
class LoadedTensor:
    """A tensor as the graphs take it.

    Attributes:
        values: float32 of the tensor's shape, or uint8 ``[rows, bytes of a row]``.
        format: ``Q4_0``, ``Q4_K`` or ``Q6_K`` of blocks, None of floats.
    """

    values: npt.NDArray[Any]
    format: str | None = None


def open_gguf(path: Path) -> GgufFile:
    """Opens a file of this model.

    Raises:
        CheckpointError: If it is damaged or of another model.
    """
    file = GgufFile(path)
    architecture = file.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{path} holds a model of the architecture {quoted(architecture)}, not "
            f"{ARCHITECTURE!r}"
        )
    for prefix, side in (("v.", "text"), ("blk.", "vision")):
        if not any(name.startswith(prefix) for name in file.tensors):
            raise CheckpointError(f"{path} holds the {side} side only, {OLD_LAYOUT}")
    return file


def main_encoding(file: GgufFile) -> str:
    """The encoding that most of the text side has: q4_0, q4_k, q6_k or float32."""
    sizes: Counter[str] = Counter()
    for name, tensor in file.tensors.items():
        if name.startswith("blk."):
            kind = tensor.kind
            known = kind in FORMATS or kind in FLOAT_DTYPES
            format_name = kind.name if known else _REPLACEMENT.name
            sizes["float32" if kind in FLOAT_DTYPES else format_name.lower()] += (
                tensor.nbytes
            )
    return sizes.most_common(1)[0][0] if sizes else "float32"


def check_tensors(file: GgufFile, config: MllamaConfig) -> None:
    """Checks that a file has every tensor of the model, in its size.

    Raises:
        CheckpointError: If a tensor is missing or of another shape.
    """
    expected = expected_tensors(config)
    for name, stored in stored_tensors(config).items():
        tensor = file.tensors.get(stored.name)
        if tensor is None:
            raise CheckpointError(
                f"{file.path} lacks the tensor {stored.name}; it is incomplete or not "
                "of this model"
            )
        if not _is_readable(tensor.kind):
            raise CheckpointError(
                f"{file.path}: {stored.name} is in {tensor.kind.name.lower()}, which "
                "can't be read here; convert the original checkpoint with "
                "`mllama quantize`"
            )
        rows = math.prod(expected[name])
        matrix = len(expected[name]) == 2 and _is_text(name)
        if math.prod(tensor.shape) != rows or (
            matrix and tensor.shape != expected[name]
        ):
            raise CheckpointError(
                f"{file.path}: {stored.name} has shape {list(tensor.shape)}, but the "
                f"configuration asks for {list(expected[name])}; the two are not of "
                "one model"
            )


def _is_text(name: str) -> bool:
    """Whether a tensor is of the text side, by its canonical name."""
    return name.startswith(("language_model.", "lm_head."))


@functools.cache
def _is_readable(kind: GGMLQuantizationType) -> bool:
    """Whether values of a type are known; the gguf package knows most blocks."""
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
    """The model's tensors by canonical name, in the form in which they are served.

    Blocks of the text side stay blocks if MAX has kernels for them; others become
    q6_k, which is said in the log.
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
            raw = _converted(raw, kind, served, name)
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
    """The format of each tensor that is served in blocks, by canonical name; the others
    are floats."""
    loose = _attention_with_floats(file, config)
    served: dict[str, GGMLQuantizationType] = {}
    for name, place in stored_tensors(config).items():
        kind = file.tensors[place.name].kind
        if kind not in FLOAT_DTYPES and _is_text(name) and name not in loose:
            served[name] = kind if _has_kernel(kind, name) else _REPLACEMENT
    return served


def _has_kernel(kind: GGMLQuantizationType, name: str) -> bool:
    """Whether MAX multiplies with blocks of a format in a tensor's place.

    Its dequantization of q4_0, which looks up tokens, writes beyond its memory.
    """
    if name == EMBEDDING and kind is GGMLQuantizationType.Q4_0:
        return False
    return kind in FORMATS


def _attention_with_floats(file: GgufFile, config: MllamaConfig) -> set[str]:
    """Query, key and value projections that share a layer with one in floats.

    MAX multiplies with all three at once, so they must all be blocks or all floats.
    """
    stored = stored_tensors(config)
    loose: set[str] = set()
    for index in range(config.text_config.num_hidden_layers):
        names = [
            f"language_model.layers.{index}.self_attn.{p}_proj.weight" for p in "qkv"
        ]
        kinds = [
            file.tensors[stored[name].name].kind for name in names if name in stored
        ]
        if any(kind in FLOAT_DTYPES for kind in kinds):
            loose.update(names)
    return loose


def _raw_gates(file: GgufFile) -> set[str]:
    """Gates of the global vision layers, if they are not stored after tanh.

    Ollama 0.7.0 converted them so, 0.7.1 corrected it.  The files say it only where a
    gate is beyond what tanh can give.
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


def _converted(
    raw: npt.NDArray[Any],
    kind: GGMLQuantizationType,
    served: GGMLQuantizationType,
    name: str,
) -> npt.NDArray[np.uint8]:
    """Rows of blocks in another format, some at a time: floats take much memory."""
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
