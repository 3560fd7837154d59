"""Writes deterministic random checkpoints in Hugging Face's layout, in every spelling.

``write_checkpoint`` writes one; ``checkpoint`` writes it once per test session and
returns its folder.
"""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from transformers import MllamaConfig

from .configs import (
    Spelling,
    config_json,
    published_widths_config,
    tiny_config,
    write_json,
)
from .text_files import (
    BOS,
    END_OF_MESSAGE,
    END_OF_TEXT,
    END_OF_TURN,
    PAD,
    ProcessorLayout,
    TemplateLayout,
    build_tokenizer,
    printable_ids,
    write_image_processor,
    write_tokenizer,
)
from .weights import published_name, random_weights

__all__ = [
    "CONFIGS",
    "DEFAULT_SEED",
    "checkpoint",
    "published_widths_config",
    "tiny_config",
    "write_checkpoint",
]

Dtype = Literal["float32", "bfloat16"]

# With the dimensions of the demo model, the best token of every step leads by 0.05.
DEFAULT_SEED = 2

CONFIGS: dict[str, Callable[[], MllamaConfig]] = {
    "tiny": tiny_config,
    "published_widths": published_widths_config,
}


def _save_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    """Writes ``model.safetensors``, or ``shards`` similar-sized files and an index."""
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata=metadata)
        return
    total = sum(t.nbytes for t in tensors.values())
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    written = 0
    for name, tensor in tensors.items():
        parts[min(written * shards // total, shards - 1)][name] = tensor
        written += tensor.nbytes
    if not all(parts):
        raise ValueError(f"{len(tensors)} tensors are too few for {shards} shards")
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata=metadata)
        weight_map |= dict.fromkeys(part, file)
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def write_checkpoint(
    folder: Path,
    config: MllamaConfig,
    seed: int,
    *,
    shards: int = 1,
    names: Spelling = "old",
    rope_spelling: Spelling = "old",
    dtype: Dtype = "float32",
    processor_layout: ProcessorLayout = "preprocessor_config",
    template_layout: TemplateLayout = "jinja",
) -> Path:
    """Writes a complete checkpoint into ``folder`` and returns it.

    The same ``config`` and ``seed`` give the same values in every spelling.
    ``names``: "old" is the published spelling (``language_model.model...``), "new"
    transformers 5's (``model.language_model...``).  The defaults are the layout of
    the published checkpoints in float32.  The ids of special tokens are those of
    the tokenizer that is written, whatever ``config`` says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(config)
    vocab_size = config.text_config.vocab_size
    tokenizer = build_tokenizer(vocab_size)
    ids = tokenizer.token_to_id
    ends = [ids(END_OF_TEXT), ids(END_OF_MESSAGE), ids(END_OF_TURN)]
    config.image_token_index = vocab_size
    config.text_config.bos_token_id = ids(BOS)
    config.text_config.eos_token_id = ends
    config.text_config.pad_token_id = ids(PAD)

    write_json(
        folder / "config.json",
        config_json(config, rope_spelling=rope_spelling, dtype=dtype),
    )
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": ids(BOS),
            "do_sample": True,
            "eos_token_id": ends,
            "pad_token_id": ids(PAD),
            "temperature": 0.6,
            "top_p": 0.9,
        },
    )
    write_tokenizer(folder, tokenizer, template_layout)
    write_image_processor(
        folder,
        tile=config.vision_config.image_size,
        max_tiles=config.vision_config.max_num_tiles,
        layout=processor_layout,
    )
    target = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    rename = published_name if names == "old" else str
    _save_weights(
        folder,
        {
            rename(name): tensor.to(target)
            for name, tensor in random_weights(
                config, seed, printable_ids(tokenizer, vocab_size)
            )
        },
        shards,
    )
    return folder


@cache
def _session_folder() -> Path:
    """Creates a folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="mllama-checkpoints-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def checkpoint(
    kind: str = "tiny",
    seed: int = DEFAULT_SEED,
    *,
    shards: int = 1,
    names: Spelling = "old",
    rope_spelling: Spelling = "old",
    dtype: Dtype = "float32",
    processor_layout: ProcessorLayout = "preprocessor_config",
    template_layout: TemplateLayout = "jinja",
) -> Path:
    """Returns the folder of a checkpoint, which the first call of the session writes.

    ``kind`` is a key of ``CONFIGS``; the rest is as in ``write_checkpoint``.  Treat
    the folder as read-only, since tests share it.
    """
    options = (shards, names, rope_spelling, dtype, processor_layout, template_layout)
    label = "-".join(str(part) for part in (kind, seed, *options))
    return write_checkpoint(
        _session_folder() / label,
        CONFIGS[kind](),
        seed,
        shards=shards,
        names=names,
        rope_spelling=rope_spelling,
        dtype=dtype,
        processor_layout=processor_layout,
        template_layout=template_layout,
    )
