"""A GGUF file in Ollama's layout as a checkpoint: checked, unpacked, read."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from mllama.cache import cache_directory
from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.kernels.quantising import FORMATS, quantise
from mllama.weights.bfloat16 import from_bfloat16
from mllama.weights.gguf_file import FLOATS, GgufFile
from mllama.weights.gguf_names import stored_tensors
from mllama.weights.gguf_writing import ARCHITECTURE, SMALL_FILES, SOURCE_PREFIX
from mllama.weights.names import expected_tensors

logger = logging.getLogger("mllama")

_REPLACEMENT = GGMLQuantizationType.Q6_K
"""What matrices in blocks that MAX has no kernel for are converted to."""

_BYTES_AT_ONCE = 1 << 22
"""Of blocks that are converted together."""


@dataclass(frozen=True)
class GgufMatrix:
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
            f"{path} holds a model of the architecture {architecture!r}, not "
            f"{ARCHITECTURE!r}"
        )
    if not any(name.startswith("v.") for name in file.tensors):
        raise CheckpointError(
            f"{path} holds the text side only, the old form of two files; pull the "
            "model again with Ollama 0.7 to 0.29, or convert the original checkpoint "
            "with `mllama quantize`"
        )
    return file


def main_format(file: GgufFile) -> str:
    """The encoding that most of the text side has: q4_0, q4_k, q6_k or float32."""
    sizes: Counter[str] = Counter()
    for name, tensor in file.tensors.items():
        if name.startswith("blk."):
            kind = tensor.kind
            known = kind in FORMATS or kind in FLOATS
            format_name = kind.name if known else _REPLACEMENT.name
            sizes["float32" if kind in FLOATS else format_name.lower()] += tensor.nbytes
    return sizes.most_common(1)[0][0] if sizes else "float32"


def unpack_small_files(path: Path) -> Path:
    """The directory with a file's configuration, tokenizer and chat template.

    Raises:
        CheckpointError: If the file doesn't hold them.
    """
    file = open_gguf(path)
    held = {
        name: file.metadata[SOURCE_PREFIX + name]
        for name in SMALL_FILES
        if SOURCE_PREFIX + name in file.metadata
    }
    if "config.json" not in held or "tokenizer.json" not in held:
        raise CheckpointError(
            f"{path} holds no configuration and tokenizer in Hugging Face's form; give "
            "a directory that has them as --model-path and this file as --weight-path"
        )
    digest = hashlib.sha256()
    for name, content in held.items():
        if not isinstance(content, str):
            raise CheckpointError(f"{path}: {SOURCE_PREFIX}{name} is no text")
        digest.update(f"{name}\0{content}\0".encode())
    directory = cache_directory(f"gguf/{digest.hexdigest()[:32]}")
    for name, content in held.items():
        target = directory / name
        if not target.is_file() or target.read_text(encoding="utf-8") != content:
            part = directory / f"{name}.{os.getpid()}.part"
            part.write_text(content, encoding="utf-8")
            part.replace(target)
    return directory


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
        rows = math.prod(expected[name])
        matrix = len(expected[name]) == 2 and name.startswith(
            ("language_model.", "lm_head.")
        )
        if math.prod(tensor.shape) != rows or (
            matrix and tensor.shape != expected[name]
        ):
            raise CheckpointError(
                f"{file.path}: {stored.name} has shape {list(tensor.shape)}, but the "
                f"configuration asks for {list(expected[name])}; the two are not of "
                "one model"
            )


def read_tensors(
    file: GgufFile, config: MllamaConfig
) -> Iterator[tuple[str, GgufMatrix]]:
    """The model's tensors by canonical name, in the form in which they are served.

    Blocks of the text side stay blocks if MAX has kernels for them; others become
    q6_k, which is said in the log.
    """
    expected = expected_tensors(config)
    stored = stored_tensors(config)
    converted: Counter[str] = Counter()
    for name, served in served_formats(file, config).items():
        place = stored[name]
        kind = file.tensors[place.name].kind
        raw = file.raw(place.name)
        if served is not None and kind is served:
            blocks = place.from_file(raw)
            yield name, GgufMatrix(np.ascontiguousarray(blocks), kind.name)
            continue
        if served is None:
            floats = _as_floats(raw, kind).reshape(expected[name])
            floats = place.from_file(floats).astype(np.float32, copy=False)
            yield name, GgufMatrix(floats)
        else:
            converted[kind.name.lower()] += 1
            blocks = place.from_file(_converted(raw, kind, served, name))
            yield name, GgufMatrix(np.ascontiguousarray(blocks), served.name)
    for kind_name, count in converted.items():
        logger.info(
            "converted %d tensors from %s, for which there is no kernel, to q6_k",
            count,
            kind_name,
        )


def served_formats(
    file: GgufFile, config: MllamaConfig
) -> dict[str, GGMLQuantizationType | None]:
    """The block format in which each tensor is served, by canonical name; None is
    floats."""
    loose = _attention_with_floats(file, config)
    served: dict[str, GGMLQuantizationType | None] = {}
    for name, place in stored_tensors(config).items():
        kind = file.tensors[place.name].kind
        is_text = name.startswith(("language_model.", "lm_head."))
        if kind in FLOATS or not is_text or name in loose:
            served[name] = None
        else:
            served[name] = kind if kind in FORMATS else _REPLACEMENT
    return served


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
        if any(kind in FLOATS for kind in kinds):
            loose.update(names)
    return loose


def _converted(
    raw: npt.NDArray[Any],
    kind: GGMLQuantizationType,
    served: GGMLQuantizationType,
    name: str,
) -> npt.NDArray[np.uint8]:
    """Rows of blocks in another format, some at a time: floats take much memory."""
    step = max(1, _BYTES_AT_ONCE // raw.shape[1])
    parts = [
        quantise(_as_floats(raw[start : start + step], kind), served, name)
        for start in range(0, len(raw), step)
    ]
    return np.concatenate(parts)


def _as_floats(
    raw: npt.NDArray[Any], kind: GGMLQuantizationType
) -> npt.NDArray[np.float32]:
    if kind is GGMLQuantizationType.BF16:
        return from_bfloat16(raw)
    if kind in FLOATS:
        return np.asarray(raw, np.float32)
    return np.asarray(dequantize(raw, kind), np.float32)
