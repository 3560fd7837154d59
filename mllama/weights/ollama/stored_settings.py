"""What Ollama's store has about a model beside its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mllama.errors import CheckpointError
from mllama.weights.ollama.store import PREFIX, open_stored, parse_name

LLAMA_PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType(
    {"temperature": 0.6, "top_p": 0.9}
)
"""Options that Ollama's library has for Llama 3.2 Vision."""

_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class StoredSettings:
    """Settings of a model in Ollama's store.

    Attributes:
        name: The model's name, as short as Ollama shows it.
        digest: The manifest's SHA-256 in hexadecimal digits, as Ollama lists it.
        parameters: Options for requests that leave them open.
        system: The system prompt; may be empty.
        template: The template, in Go's template language; may be empty.
        license: The license; may be empty.
    """

    name: str
    digest: str = "0" * 64
    parameters: Mapping[str, Any] = field(default_factory=lambda: LLAMA_PARAMETERS)
    system: str = ""
    template: str = ""
    license: str = ""


def read_settings(name: str) -> StoredSettings:
    """Returns the settings of a model that is in a store.

    Args:
        name: The model's name, with or without ``ollama:`` in front.

    Raises:
        MllamaError: If there is no such model, or a file of it is damaged.
    """
    stored = open_stored(name)
    texts: dict[str, list[str]] = {}
    for layer in stored.layers:
        if layer.kind in ("params", "system", "template", "license"):
            content = stored.read(layer, _MAX_BYTES)
            texts.setdefault(layer.kind, []).append(content.decode("utf-8", "replace"))
    short = str(parse_name(name.removeprefix(PREFIX)))
    return StoredSettings(
        name=short,
        digest=hashlib.sha256(stored.manifest.read_bytes()).hexdigest(),
        parameters={**LLAMA_PARAMETERS, **_parameters(texts.get("params", ()), short)},
        system="\n".join(texts.get("system", ())),
        template="\n".join(texts.get("template", ())),
        license="\n".join(texts.get("license", ())),
    )


def _parameters(texts: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise CheckpointError(
                f"the parameters of {PREFIX}{name} are no JSON object; pull the model "
                "again"
            )
        found.update(values)
    return found
