"""Writes LoRA adapters with random factors, and merges them, with PEFT."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MllamaForConditionalGeneration

from .configs import Spelling
from .weights import published_name

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

STRENGTH = 0.3
"""Standard deviation of the factors, far from their initial values."""


@dataclass(frozen=True)
class Merged:
    """An adapter's folder, and the model that PEFT merges it into."""

    folder: Path
    model: Any

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The merged tensors in float32, without ``model.`` in their names."""
        return {
            name.removeprefix("model."): tensor.float().numpy()
            for name, tensor in self.model.state_dict().items()
        }


def write_adapter(
    folder: Path,
    checkpoint: Path,
    *,
    names: Spelling = "new",
    dtype: torch.dtype = torch.float32,
    strength: float = STRENGTH,
    **settings: Any,
) -> Merged:
    """Writes an adapter for a checkpoint into ``folder``, and merges it.

    ``settings`` are those of ``LoraConfig``.  All trainable parameters get random
    values.  ``names`` "old" is the spelling of transformers before 4.52.
    """
    base = MllamaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32
    )
    model = get_peft_model(base, LoraConfig(**settings))
    trained = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            trained += 1
            noise = torch.from_numpy(
                np.random.default_rng(zlib.crc32(name.encode())).standard_normal(
                    parameter.shape, dtype=np.float32
                )
            )
            if "lora_A" in name or "lora_B" in name or "lora_embedding" in name:
                parameter.copy_(noise * strength)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.1 * noise)
            else:
                parameter.add_(noise * 0.1)
            parameter.copy_(parameter.to(dtype).float())
    assert trained
    model.save_pretrained(folder)
    tensors = {k: v.to(dtype) for k, v in load_file(folder / WEIGHTS).items()}
    if names == "old":
        tensors = {
            PREFIX + published_name(k.removeprefix(PREFIX)): v
            for k, v in tensors.items()
        }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return Merged(folder, model.merge_and_unload())


def edit_config(folder: Path, **changes: Any) -> None:
    """Changes fields of ``adapter_config.json``."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Any) -> None:
    """Rewrites the adapter's tensors after ``change`` has edited their dictionary."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write_merged(merged: Merged, checkpoint: Path, folder: Path) -> Path:
    """Writes a copy of the checkpoint with the merged weights in float32."""
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    tensors = {
        k: v.float().contiguous().clone() for k, v in merged.model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
