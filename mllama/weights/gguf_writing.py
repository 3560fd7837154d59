"""A checkpoint as one GGUF file in Ollama's layout, quantised on the way.

The file also holds the checkpoint's own small files (configuration, tokenizer, chat
template, image processor), so that it alone is enough to serve.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.weights.block_formats import quantise
from mllama.weights.checkpoint import Checkpoint
from mllama.weights.gguf_names import POSITION_GATE, Stored, stored_tensors
from mllama.weights.names import expected_tensors
from mllama.weights.quantisation_plan import quantisation_plan

ARCHITECTURE: Final = "mllama"
SOURCE_PREFIX: Final = "mllama.source."
"""Keys of the small files: this and the file's name."""

SMALL_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)

_POSITIONS = "position_embd.weight"
"""Tables of positions stay in float32, as in Ollama's files."""

Progress = Callable[[str, int, int], None]
"""Told a tensor's name, the bytes written and those of all tensors."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: our name, its place in the file, its format and shape."""

    ours: str
    stored: Stored
    kind: GGMLQuantizationType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        length, size = GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape, dtype=np.int64)) // length * size


def write_gguf(
    source: Checkpoint, target: Path, encoding: str, progress: Progress
) -> None:
    """Quantises a checkpoint into a file, one tensor at a time.

    The file appears under its name when it is complete.

    Args:
        source: The checkpoint.
        target: The file.
        encoding: ``q4_0``, ``q4_k`` or ``q6_k``.
        progress: Called before each tensor and once in the end.

    Raises:
        CheckpointError: If a matrix doesn't suit the encoding, or the file can't be
            written.
    """
    write_tensors(
        target,
        source.path,
        source.config,
        planned_tensors(source.config, encoding),
        lambda tensor: _encoded(tensor, source.tensors[tensor.ours].floats()),
        progress,
    )


def write_tensors(
    target: Path,
    small_files: Path,
    config: MllamaConfig,
    plan: Sequence[PlannedTensor],
    encoded: Callable[[PlannedTensor], npt.NDArray[Any]],
    progress: Progress,
) -> None:
    """Writes a file of tensors that are made one by one.

    The file appears under its name when it is complete.

    Args:
        target: The file.
        small_files: Directory of configuration, tokenizer and chat template.
        config: The model's.
        plan: Every tensor of the model.
        encoded: A tensor's values as the file has them.
        progress: Called before each tensor and once in the end.

    Raises:
        CheckpointError: If the file can't be written.
    """
    total = sum(tensor.nbytes for tensor in plan)
    part = target.with_name(f"{target.name}.part")
    try:
        _check_room(target, total)
        writer = GGUFWriter(None, ARCHITECTURE)
        _add_metadata(writer, small_files, config)
        _write(writer, part, plan, encoded, progress, total)
        os.replace(part, target)
    except OSError as error:
        raise CheckpointError(
            f"{target} can't be written: {error.strerror or error}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    progress(target.name, total, total)


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise CheckpointError(
            f"{target} takes {needed / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB "
            "are free there"
        )


def planned_tensors(config: MllamaConfig, encoding: str) -> list[PlannedTensor]:
    """Every tensor of a model with its format.

    Args:
        config: The model's.
        encoding: ``q4_0``, ``q4_k`` or ``q6_k``.

    Raises:
        CheckpointError: If a matrix doesn't suit the encoding.
    """
    formats = quantisation_plan(config, encoding.upper())
    shapes = expected_tensors(config)
    planned = []
    for name, stored in stored_tensors(config).items():
        shape = shapes[name]
        if name in formats:
            kind = GGMLQuantizationType[formats[name]]
            length = GGML_QUANT_SIZES[kind][0]
            if shape[-1] % length:
                raise CheckpointError(
                    f"{name} has rows of {shape[-1]}, but {kind.name.lower()} needs a "
                    f"multiple of {length}; "
                    + ("use q4_0" if shape[-1] % 32 == 0 else "leave it in floats")
                )
        elif len(shape) > 1 and not stored.name.endswith(_POSITIONS):
            kind = GGMLQuantizationType.F16
        else:
            kind = GGMLQuantizationType.F32
        planned.append(PlannedTensor(name, stored, kind, shape))
    return planned


def _write(
    writer: GGUFWriter,
    part: Path,
    plan: Sequence[PlannedTensor],
    encoded: Callable[[PlannedTensor], npt.NDArray[Any]],
    progress: Progress,
    total: int,
) -> None:
    for tensor in plan:
        writer.add_tensor_info(
            tensor.stored.name,
            tensor.shape,
            np.dtype(np.float32),
            tensor.nbytes,
            raw_dtype=tensor.kind,
        )
    writer.add_tensor_info(POSITION_GATE, (1,), np.dtype(np.float32), 4)
    writer.write_header_to_file(part)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    written = 0
    for tensor in plan:
        progress(tensor.ours, written, total)
        values = encoded(tensor)
        if tensor.ours == "vision_model.gated_positional_embedding.gate":
            position_gate = 1 - values
        writer.write_tensor_data(values)
        written += tensor.nbytes
    writer.write_tensor_data(position_gate)
    writer.close()


def _encoded(tensor: PlannedTensor, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = tensor.stored.to_file(values)
    if tensor.kind is GGMLQuantizationType.F32:
        return np.ascontiguousarray(values, np.float32)
    if tensor.kind is GGMLQuantizationType.F16:
        return np.ascontiguousarray(values, np.float16)
    return quantise(values, tensor.kind)


def _add_metadata(writer: GGUFWriter, source: Path, config: MllamaConfig) -> None:
    text, vision = config.text_config, config.vision_config
    numbers = {
        "vocab_size": text.vocab_size,
        "block_count": text.num_hidden_layers,
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "rope.dimension_count": text.head_dim,
        "vision.block_count": vision.num_hidden_layers,
        "vision.global.block_count": vision.num_global_layers,
        "vision.embedding_length": vision.hidden_size,
        "vision.feed_forward_length": vision.intermediate_size,
        "vision.attention.head_count": vision.attention_heads,
        "vision.image_size": vision.image_size,
        "vision.patch_size": vision.patch_size,
        "vision.max_num_tiles": vision.max_num_tiles,
        "vision.num_channels": vision.num_channels,
    }
    for key, number in numbers.items():
        writer.add_uint32(f"mllama.{key}", number)
    for key, value in (
        ("attention.layer_norm_rms_epsilon", text.rms_norm_eps),
        ("rope.freq_base", text.rope_theta),
        ("vision.attention.layer_norm_epsilon", vision.norm_eps),
    ):
        writer.add_float32(f"mllama.{key}", value)
    for key, values in (
        ("attention.cross_attention_layers", text.cross_attention_layers),
        ("vision.intermediate_layers_indices", vision.intermediate_layers_indices),
    ):
        writer.add_array(f"mllama.{key}", list(values))
    for name in SMALL_FILES:
        if (source / name).is_file():
            content = (source / name).read_text(encoding="utf-8")
            writer.add_string(f"{SOURCE_PREFIX}{name}", content)
    _add_tokenizer(writer, source)


def _add_tokenizer(writer: GGUFWriter, source: Path) -> None:
    """The tokenizer in ggml's form, for other programs that read the file."""
    try:
        content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary: dict[str, int] = dict(content["model"]["vocab"])
        merges = content["model"].get("merges", [])
        added = {token["content"]: token for token in content["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError):
        return  # Not of the kind that ggml knows; ours is among the small files.
    vocabulary |= {text: token["id"] for text, token in added.items()}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            TokenType.CONTROL
            if added.get(token, {}).get("special")
            else TokenType.NORMAL
            for token in tokens
        ]
    )
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    )
