"""The configuration of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, StrictStr, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from mllama.config.text import MllamaTextConfig
from mllama.config.validation import ConfigSection, TokenId
from mllama.config.vision import MllamaVisionConfig
from mllama.errors import ConfigError, quoted

ARCHITECTURE = "MllamaForConditionalGeneration"
MODEL_TYPE = "mllama"


@dataclass(frozen=True)
class MllamaConfig(ConfigSection):
    """The configuration of a checkpoint: ``config.json``."""

    text_config: MllamaTextConfig = MllamaTextConfig()
    vision_config: MllamaVisionConfig = MllamaVisionConfig()
    image_token_index: TokenId = 128256
    dtype: StrictStr | None = Field(
        default=None, validation_alias=AliasChoices("dtype", "torch_dtype")
    )

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Reads the content of ``config.json``.

        Raises:
            ConfigError: If it describes another model, has a field of a wrong type or
                contradicts itself.
        """
        if isinstance(values, Mapping):
            _require_mllama(values)
        return super().from_dict(values)

    @classmethod
    def from_path(cls, directory: str | PathLike[str]) -> Self:
        """Reads ``config.json`` of a checkpoint.

        Raises:
            ConfigError: If it is missing, is not JSON, or as in :meth:`from_dict`.
        """
        path = Path(directory) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{directory} has no config.json; give --model-path the directory "
                "of a checkpoint"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"can't read {path}: {error}") from error
        return cls.from_dict(values)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_token_index >= self.text_config.num_embeddings:
            raise ValueError(
                f"image_token_index {self.image_token_index} is not below "
                f"{self.text_config.num_embeddings}, the number of embeddings"
            )
        return self


def _require_mllama(values: Mapping[str, Any]) -> None:
    """Checks that a config is of this architecture.

    Raises:
        ConfigError: If it isn't, with the other model's name.
    """
    names = values.get("architectures") or []
    names = names if isinstance(names, list) else [names]
    model_type = values.get("model_type") or "(none)"
    if names and ARCHITECTURE not in names:
        found = _plain(names[0])
    elif model_type != MODEL_TYPE:
        found = f"model of type {_plain(model_type)}"
    else:
        return
    raise ConfigError(f"this checkpoint is a {found}; mllama serves {ARCHITECTURE}")


def _plain(value: Any) -> str:
    """Returns a value as messages show it, without quotation marks."""
    return quoted(value).strip("'")
