"""The configuration of a text-only Llama, which serves as a draft model.

It is a :class:`~mllama.config.MllamaConfig` without cross-attention layers and without
weights on the vision side, so that what reads and quantizes a checkpoint's text side
does so for a Llama too.  Fields and defaults are those of transformers'
``configuration_llama.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from mllama.config import MllamaConfig, MllamaTextConfig
from mllama.config.validation import Size, without_nulls
from mllama.errors import ConfigError, quoted

LLAMA: Final = "LlamaForCausalLM"
LLAMA_TYPE: Final = "llama"

_DEFAULTS: Final = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class LlamaTextConfig(MllamaTextConfig):
    """The text decoder of a Llama, which is all of its ``config.json``."""

    section: ClassVar[str] = ""

    head_dim: Size = 0
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False

    @property
    def num_embeddings(self) -> int:
        """Returns the number of embeddings: there is none for images."""
        return self.vocab_size

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        filled = {
            **_DEFAULTS,
            **without_nulls(values, cls.nullable),
            "cross_attention_layers": (),
        }
        heads, width = filled["num_attention_heads"], filled["hidden_size"]
        filled.setdefault("num_key_value_heads", heads)
        if isinstance(heads, int) and isinstance(width, int) and heads > 0:
            filled.setdefault("head_dim", width // heads)
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd")
        return self


@dataclass(frozen=True)
class LlamaConfig(MllamaConfig):
    """The configuration of a text-only Llama; its vision side means nothing."""

    text_config: LlamaTextConfig = LlamaTextConfig.from_dict({})

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Reads the content of ``config.json``.

        Raises:
            ConfigError: If it describes another model, has a field of a wrong type or
                contradicts itself.
        """
        if isinstance(values, Mapping):
            _require_llama(values)
        text = LlamaTextConfig.from_dict(values)
        dtype = values.get("dtype") or values.get("torch_dtype")
        return cls(
            text_config=text,
            image_token_index=0,
            dtype=dtype if isinstance(dtype, str) else None,
        )

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
                f"{directory} has no config.json; name the directory of a checkpoint"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"can't read {path}: {error}") from error
        return cls.from_dict(values)


def _require_llama(values: Mapping[str, Any]) -> None:
    """Checks that a config is of a text-only Llama.

    Raises:
        ConfigError: If it isn't, with the other model's name.
    """
    names = values.get("architectures") or []
    names = names if isinstance(names, list) else [names]
    model_type = values.get("model_type") or "(none)"
    if names and LLAMA not in names:
        found = quoted(names[0])
    elif model_type != LLAMA_TYPE:
        found = f"of type {quoted(model_type)}"
    else:
        return
    sees = ", which sees pictures" if "vision_config" in values else ""
    raise ConfigError(
        f"this checkpoint is {found}{sees}; use a text-only {LLAMA}, such as "
        "Llama 3.2 1B"
    )
