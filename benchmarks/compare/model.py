"""The benchmarked model: published widths, few layers, random weights.

It has 4 text layers, one of them with cross-attention: a tenth of 11B's.  Its 4 local
and 1 global vision layers are an eighth.  The vocabulary is a tenth, like the depth, so
that the head's share of the work is that of the full model.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader, GGUFWriter

from benchmarks.compare.environments import FOLDER

VOCABULARY = 12_800
TEXT_LAYERS = 4
CROSS_LAYERS = (1,)
VISION_LAYERS, GLOBAL_LAYERS = 4, 1
SEED = 0
MAX_LENGTH = 4_608
"""Context length: the longest prompt of the growth curves and its answer."""


@dataclass(frozen=True)
class ModelFiles:
    """The same weights in the file formats that the engines read.

    Attributes:
        checkpoint: float32 weights in Hugging Face layout.
        gguf: q4_k weights, written by ``mllama quantize``.
        text_gguf: Only the self-attention layers and the head, for llama.cpp.
    """

    checkpoint: Path
    gguf: Path
    text_gguf: Path


def model_files() -> ModelFiles:
    """Returns the files, after creating those that don't exist."""
    folder = FOLDER / "model"
    files = ModelFiles(
        folder / "checkpoint", folder / "model.gguf", folder / "text-layers.gguf"
    )
    if not (files.checkpoint / "complete").is_file():
        from tests.reference.checkpoints import (
            published_widths_config,
            write_checkpoint,
        )

        print("writing a checkpoint of random weights", file=sys.stderr, flush=True)
        config = published_widths_config(
            VISION_LAYERS,
            GLOBAL_LAYERS,
            TEXT_LAYERS,
            list(CROSS_LAYERS),
            vocab_size=VOCABULARY,
        )
        write_checkpoint(files.checkpoint, config, SEED)
        (files.checkpoint / "complete").touch()
    if not files.gguf.is_file():
        command = [sys.executable, "-m", "mllama", "quantize"]
        paths = [str(files.checkpoint), str(files.gguf)]
        subprocess.run([*command, *paths], check=True, stdout=sys.stderr)
    if not files.text_gguf.is_file():
        write_text_layers(files.gguf, files.text_gguf)
    return files


def write_text_layers(source: Path, target: Path) -> None:
    """Writes a GGUF file for llama.cpp with a model's self-attention layers.

    Args:
        source: A file that ``mllama quantize`` wrote.
        target: The file for llama.cpp, which has no tokenizer.
    """
    reader = GGUFReader(source)

    def number(key: str) -> int:
        return int(reader.fields[f"mllama.{key}"].contents())

    crossing = set(reader.fields["mllama.attention.cross_attention_layers"].contents())
    kept = [index for index in range(number("block_count")) if index not in crossing]
    part = target.with_suffix(".part")
    writer = GGUFWriter(part, "llama")
    writer.add_block_count(len(kept))
    writer.add_context_length(number("context_length"))
    writer.add_embedding_length(number("embedding_length"))
    writer.add_feed_forward_length(number("feed_forward_length"))
    writer.add_head_count(number("attention.head_count"))
    writer.add_head_count_kv(number("attention.head_count_kv"))
    writer.add_rope_dimension_count(number("rope.dimension_count"))
    writer.add_rope_freq_base(float(reader.fields["mllama.rope.freq_base"].contents()))
    writer.add_layer_norm_rms_eps(
        float(reader.fields["mllama.attention.layer_norm_rms_epsilon"].contents())
    )
    writer.add_vocab_size(number("vocab_size"))
    writer.add_tokenizer_model("none")
    for tensor in reader.tensors:
        name, data = tensor.name, tensor.data
        if name.startswith("blk."):
            _, index, rest = name.split(".", 2)
            if int(index) not in kept:
                continue
            name = f"blk.{kept.index(int(index))}.{rest}"
        elif name == "token_embd.weight":
            data = data[: number("vocab_size")]  # without the row of <|image|>
        elif not name.startswith("output"):
            continue
        writer.add_tensor(name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)
