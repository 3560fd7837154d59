"""A whole checkpoint's configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from mllama.config.fields import Section, require
from mllama.config.text import MllamaTextConfig
from mllama.config.vision import MllamaVisionConfig
from mllama.errors import ConfigError

ARCHITECTURE = "MllamaForConditionalGeneration"
MODEL_TYPE = "mllama"


@dataclass(frozen=True)
class MllamaConfig:
    """A whole checkpoint's configuration."""

    text_config: MllamaTextConfig
    vision_config: MllamaVisionConfig
    image_token_index: int
    dtype: str | None

    @classmethod
    def from_dict(cls, values: Any) -> MllamaConfig:
        """Reads the content of ``config.json``.

        Raises:
            ConfigError: If it describes another model, has a field of a wrong type or
                contradicts itself.
        """
        section = Section("", values)
        _require_mllama(section)
        text = MllamaTextConfig.from_dict(section.values.get("text_config"))
        vision = MllamaVisionConfig.from_dict(section.values.get("vision_config"))
        image_token_index = section.integer("image_token_index", 128256, least=0)
        require(
            image_token_index < text.num_embedding_rows,
            f"image_token_index {image_token_index} has no row among the "
            f"{text.num_embedding_rows} of the embedding",
        )
        dtype = section.text("dtype", section.text("torch_dtype", None))
        return cls(text, vision, image_token_index, dtype)

    @classmethod
    def from_path(cls, directory: str | PathLike[str]) -> MllamaConfig:
        """Reads ``config.json`` of a checkpoint.

        Raises:
            ConfigError: If it is missing, is no JSON, or as in :meth:`from_dict`.
        """
        path = Path(directory) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{directory} holds no config.json; give --model-path the directory "
                "of a checkpoint"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} can't be read: {error}") from error
        return cls.from_dict(values)


def _require_mllama(section: Section) -> None:
    """Refuses another model's config by its name."""
    architectures = section.get("architectures", [])
    model_type = section.get("model_type", "(none)")
    named = isinstance(architectures, list) and ARCHITECTURE in architectures
    if model_type == MODEL_TYPE and (named or not architectures):
        return
    if isinstance(architectures, list) and architectures and not named:
        found = f"{architectures[0]}"
    else:
        found = f"model of type {model_type}"
    raise ConfigError(f"this checkpoint is a {found}; mllama serves {ARCHITECTURE}")
