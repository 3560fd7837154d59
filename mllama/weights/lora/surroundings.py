"""What lies around an adapter: a whole model, its base model's name, other weights.

A directory may hold an adapter where a model is expected, both of them, or an adapter
with weights that were trained with it and saved apart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from mllama.errors import CheckpointError, listed, shortened
from mllama.weights.lora.adapter_config import CONFIG_FILE, MAX_CONFIG_BYTES

MODEL_CONFIG: Final = "config.json"

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")

_TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|training_args|rng_state|random_states|dataloader)"
    r"[._].*"
)
"""What trainers save to go on later; an answer doesn't depend on it."""

_WHOLE_MODEL = re.compile(
    r"(model|pytorch_model|consolidated)(-\d+-of-\d+|\.\d+)?\.(safetensors|bin|pth)"
)
"""Weights of a whole model, if its configuration is there."""


def check_is_not_adapter(directory: Path, name: str | None = None) -> None:
    """Checks that a directory that is given as a model isn't an adapter alone.

    Args:
        directory: The directory.
        name: What the user calls it, if that is not its path.

    Raises:
        CheckpointError: If it has an adapter's configuration and no model's.
    """
    if not has_adapter(directory) or (directory / MODEL_CONFIG).is_file():
        return
    base = base_model(directory)
    raise CheckpointError(
        f"{name or directory} is a LoRA adapter"
        + (f" for {base}" if base else "")
        + ", not a whole model: give its directory as --lora-path, and "
        + (base or "the model that it was trained on")
        + " as --model-path"
    )


def has_adapter(directory: Path) -> bool:
    """Returns True if a directory has an adapter's configuration."""
    return (directory / CONFIG_FILE).is_file()


def unused_adapter_note(directory: Path) -> str:
    """Returns the line that says that a model's directory has an adapter as well."""
    return (
        f"{directory} also has a LoRA adapter, which is not used; --lora-path "
        f"{directory} merges it"
    )


def unused_hub_adapter_note(name: str) -> str:
    """Returns the line that says that a repository of the hub has an adapter as well.

    Args:
        name: The repository.
    """
    return (
        f"{name} also has a LoRA adapter, which is not used; to merge it, download the "
        f"repository (hf download {name} --local-dir DIR) and give --lora-path DIR"
    )


def base_model(directory: Path) -> str | None:
    """Returns the name of the model that an adapter was made for, for messages."""
    try:
        with (directory / CONFIG_FILE).open("rb") as file:
            values = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    name = values.get("base_model_name_or_path") if isinstance(values, dict) else None
    return shortened(name) if isinstance(name, str) and name else None


def check_weights_beside(directory: Path, read: Path) -> None:
    """Checks that all weights next to an adapter are read.

    Trainers save modules that were trained besides the adapter in files of their own,
    such as ``non_lora_state_dict.bin``; without them the model is another one.

    Args:
        directory: The adapter's directory.
        read: The file with the adapter's weights.

    Raises:
        CheckpointError: If there are others than the adapter's, a whole model's and
            the state of the training.
    """
    is_model = (directory / MODEL_CONFIG).is_file()
    others = [
        file.name
        for file in sorted(directory.iterdir())
        if file.suffix in _WEIGHT_SUFFIXES
        and file.is_file()
        and file.stem != read.stem
        and not _TRAINING_STATE.fullmatch(file.name)
        and not (is_model and _WHOLE_MODEL.fullmatch(file.name))
    ]
    if others:
        raise CheckpointError(
            f"{directory} has weights besides {read.name} that would not be used: "
            f"{listed(others, 3)}; if they were trained with the adapter, load both "
            "where you trust them, write the whole model with save_pretrained and give "
            "that directory as --model-path, or else move them away"
        )
