"""Quantizes a checkpoint into one GGUF file in Ollama's layout.

The file also contains the checkpoint's small files (configuration, tokenizer, chat
template, image processor), so that it is all that serving needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, TokenType

from mllama.config import MllamaConfig, MllamaTextConfig
from mllama.errors import CheckpointError
from mllama.kernels.ops.gguf_quantize import FORMATS, compile_quantizer
from mllama.utils.atomic_file import atomic_file
from mllama.utils.sizes import format_bytes
from mllama.weights.checkpoint import Checkpoint
from mllama.weights.gguf.names import POSITION_GATE
from mllama.weights.gguf.tensor_encoding import (
    PlannedTensor,
    encode_in_parts,
    planned_tensors,
)
from mllama.weights.llama_config import LlamaConfig

ARCHITECTURE: Final = "mllama"
LLAMA_ARCHITECTURE: Final = "llama"
"""The architectures of files, of which the second is ggml's text-only Llama."""

SOURCE_PREFIX: Final = "mllama.source."
"""Prefix of the small files' keys; the file's name follows."""

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

_POSITION_GATE_SOURCE = "vision_model.gated_positional_embedding.gate"
"""The gate that the file stores twice: as it is, and one minus it."""

Progress = Callable[[str, int, int], None]
"""Called with the current step, the bytes written and the bytes of all tensors."""


def write_gguf(
    source: Checkpoint, target: Path, encoding: str, progress: Progress
) -> None:
    """Quantizes a checkpoint into a file, some rows of a tensor at a time.

    The file appears under its name only once it is complete.

    Args:
        source: The checkpoint.
        target: The file.
        encoding: ``q4_0``, ``q4_k`` or ``q6_k``.
        progress: Called before each step and after each part.

    Raises:
        CheckpointError: If a matrix or a value can't be quantized, or the file can't be
            written.
    """
    plan = planned_tensors(source.config, encoding)
    total = sum(tensor.nbytes for tensor in plan)
    _check_free_space(target, total)
    quantized = [
        source.tensors[tensor.name] for tensor in plan if tensor.kind in FORMATS
    ]
    for part_dtype in {tensor.part_dtype for tensor in quantized}:
        progress("compiling the quantizer", 0, total)
        compile_quantizer(part_dtype)
    write_tensors(
        target,
        source.path,
        source.config,
        plan,
        lambda tensor: encode_in_parts(tensor, source.tensors[tensor.name]),
        progress,
    )


def write_tensors(
    target: Path,
    small_files: Path,
    config: MllamaConfig,
    plan: Sequence[PlannedTensor],
    encode: Callable[[PlannedTensor], Iterable[npt.NDArray[Any]]],
    progress: Progress,
) -> None:
    """Writes a file from tensors that are encoded one by one.

    The file appears under its name only once it is complete.

    Args:
        target: The file.
        small_files: Directory with configuration, tokenizer and chat template.
        config: The model's config.
        plan: Every tensor of the model.
        encode: Yields the content of a tensor in the file, in parts.
        progress: Called before each tensor, after each part and at the end.

    Raises:
        CheckpointError: If the file can't be written.
    """
    total = sum(tensor.nbytes for tensor in plan)
    try:
        _check_free_space(target, total)
        with atomic_file(target) as part:
            alignment = _write_header(part, small_files, config, plan)
            _append_tensors(part, alignment, plan, encode, progress, total)
    except OSError as error:
        raise _write_error(target, error) from error
    progress(target.name, total, total)


def _write_error(target: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{target} can't be written: {error.strerror or error}")


def _check_free_space(target: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise _write_error(target, error) from error
    if needed > free:
        raise CheckpointError(
            f"{target} takes {format_bytes(needed)}, but only {format_bytes(free)} are "
            "free there; free some space, or write elsewhere (MLLAMA_CACHE names "
            "another directory for the cache)"
        )


def _write_header(
    part: Path, small_files: Path, config: MllamaConfig, plan: Sequence[PlannedTensor]
) -> int:
    """Writes what precedes the tensors' data, and returns their alignment in bytes."""
    is_llama = isinstance(config, LlamaConfig)
    architecture = LLAMA_ARCHITECTURE if is_llama else ARCHITECTURE
    writer = GGUFWriter(None, architecture)
    _add_text_metadata(writer, architecture, config.text_config)
    if not is_llama:
        _add_vision_metadata(writer, config)
    _add_small_files(writer, small_files)
    for tensor in plan:
        writer.add_tensor_info(
            tensor.stored.name,
            tensor.shape,
            np.dtype(np.float32),
            tensor.nbytes,
            raw_dtype=tensor.kind,
        )
    if _has_position_gate(plan):
        writer.add_tensor_info(POSITION_GATE, (1,), np.dtype(np.float32), 4)
    writer.write_header_to_file(part)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return int(writer.data_alignment)


def _append_tensors(
    part: Path,
    alignment: int,
    plan: Sequence[PlannedTensor],
    encode: Callable[[PlannedTensor], Iterable[npt.NDArray[Any]]],
    progress: Progress,
    total: int,
) -> None:
    """Writes the tensors' data in the order of the header."""
    done = 0
    with part.open("ab") as file:

        def align() -> None:
            file.write(bytes(-file.tell() % alignment))

        for tensor in plan:
            progress(tensor.name, done, total)
            align()
            written = 0
            for values in encode(tensor):
                file.write(values.data.cast("B"))
                written += values.nbytes
                progress(tensor.name, done + written, total)
            if written != tensor.nbytes:
                raise RuntimeError(f"{tensor.name} has {written} bytes")
            done += written
            if tensor.name == _POSITION_GATE_SOURCE:
                position_gate = 1 - values
        align()
        if _has_position_gate(plan):
            file.write(position_gate.data.cast("B"))
            align()


def _has_position_gate(plan: Sequence[PlannedTensor]) -> bool:
    return any(tensor.name == _POSITION_GATE_SOURCE for tensor in plan)


def _add_text_metadata(
    writer: GGUFWriter, architecture: str, text: MllamaTextConfig
) -> None:
    for key, number in {
        "vocab_size": text.vocab_size,
        "block_count": text.num_hidden_layers,
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "rope.dimension_count": text.head_dim,
    }.items():
        writer.add_uint32(f"{architecture}.{key}", number)
    for key, value in (
        ("attention.layer_norm_rms_epsilon", text.rms_norm_eps),
        ("rope.freq_base", text.rope_theta),
    ):
        writer.add_float32(f"{architecture}.{key}", value)


def _add_vision_metadata(writer: GGUFWriter, config: MllamaConfig) -> None:
    text, vision = config.text_config, config.vision_config
    for key, number in {
        "vision.block_count": vision.num_hidden_layers,
        "vision.global.block_count": vision.num_global_layers,
        "vision.embedding_length": vision.hidden_size,
        "vision.feed_forward_length": vision.intermediate_size,
        "vision.attention.head_count": vision.attention_heads,
        "vision.image_size": vision.image_size,
        "vision.patch_size": vision.patch_size,
        "vision.max_num_tiles": vision.max_num_tiles,
        "vision.num_channels": vision.num_channels,
    }.items():
        writer.add_uint32(f"mllama.{key}", number)
    writer.add_float32("mllama.vision.attention.layer_norm_epsilon", vision.norm_eps)
    for key, values in (
        ("attention.cross_attention_layers", text.cross_attention_layers),
        ("vision.intermediate_layers_indices", vision.intermediate_layers_indices),
    ):
        writer.add_array(f"mllama.{key}", list(values))


def _add_small_files(writer: GGUFWriter, source: Path) -> None:
    for name in SMALL_FILES:
        if (source / name).is_file():
            content = (source / name).read_text(encoding="utf-8")
            writer.add_string(f"{SOURCE_PREFIX}{name}", content)
    _add_tokenizer(writer, source)


def _add_tokenizer(writer: GGUFWriter, source: Path) -> None:
    """Adds the tokenizer in ggml's form, for other programs that read the file."""
    try:
        content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary: dict[str, int] = dict(content["model"]["vocab"])
        merges = content["model"].get("merges", [])
        added = {token["content"]: token for token in content["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError):
        return  # Not a kind that ggml knows; this package reads tokenizer.json.
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
