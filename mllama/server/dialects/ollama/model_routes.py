"""What Ollama's API says about the server and its model."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mllama.server.arrival.reading import read_body
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.ollama.answer import timestamp
from mllama.server.dialects.ollama.bodies import OllamaShowBody
from mllama.server.dialects.ollama.model_names import check_ollama_model, shown_name

OLLAMA_VERSION: Final = "0.32.15"
"""The version of Ollama whose API this is.  Clients compare it with what they need."""

_NEVER: Final = "2999-01-01T00:00:00Z"
"""When the model is unloaded."""

_FAMILY: Final = "mllama"


class ModelRoutes:
    """Describes the server and its model.

    Args:
        capabilities: Features and limits of the server.
    """

    def __init__(self, capabilities: ServerCapabilities) -> None:
        self._capabilities = capabilities
        self._description = capabilities.description
        self._name = shown_name(capabilities.model_name)
        self._parameters = self._description.parameter_count

    async def greet(self, request: Request) -> Response:
        """Says that the server is up, in the words that clients look for."""
        return PlainTextResponse("Ollama is running")

    async def version(self, request: Request) -> Response:
        """Returns the version of the API."""
        return JSONResponse({"version": OLLAMA_VERSION})

    async def list_models(self, request: Request) -> Response:
        """Lists the served model."""
        modified = timestamp(self._description.modified)
        model = {**self._model(), "modified_at": modified}
        return JSONResponse(
            {"models": [{**model, "capabilities": self._model_capabilities()}]}
        )

    async def list_running(self, request: Request) -> Response:
        """Lists the served model, which is always loaded."""
        size = self._description.size if self._description.is_on_gpu else 0
        model = {
            **self._model(),
            "expires_at": _NEVER,
            "size_vram": size,
            "context_length": self._context_length,
        }
        return JSONResponse({"models": [model]})

    async def show(self, request: Request) -> Response:
        """Describes the served model, by one of its names."""
        body = await read_body(request, OllamaShowBody)
        check_ollama_model(body.model or body.name, self._capabilities.model_name)
        stored = self._description.stored
        defaults = self._description.sampling_defaults
        template = self._capabilities.chat_template
        parameters = "\n".join(
            f"{name:<30} {_shown(value)}"
            for name, values in defaults.items()
            for value in (values if isinstance(values, list) else [values])
        )
        modelfile = "\n".join(
            [
                "# Served by mllama.",
                f"FROM {self._name}",
                f'TEMPLATE """{template}"""',
                *(
                    f"PARAMETER {' '.join(line.split(None, 1))}"
                    for line in parameters.splitlines()
                ),
            ]
        )
        answer: dict[str, Any] = {
            "modelfile": modelfile,
            "parameters": parameters,
            "template": template,
            "details": self._details(),
            "model_info": self._model_info(),
            "capabilities": self._model_capabilities(),
            "modified_at": timestamp(self._description.modified),
        }
        if stored is not None:
            answer |= {"license": stored.license, "system": stored.system}
        return JSONResponse(answer)

    @property
    def _context_length(self) -> int:
        """The served context in tokens."""
        trained = self._description.config.text_config.max_position_embeddings
        return self._capabilities.max_length or trained

    def _model(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "model": self._name,
            "size": self._description.size,
            "digest": self._description.digest,
            "details": self._details(),
        }

    def _details(self) -> dict[str, Any]:
        config = self._description.config
        return {
            "parent_model": "",
            "format": self._description.file_format,
            "family": _FAMILY,
            "families": [_FAMILY],
            "parameter_size": _rounded(self._parameters),
            "quantization_level": _LEVELS.get(
                self._description.encoding, self._description.encoding.upper()
            ),
            "context_length": self._context_length,
            "embedding_length": config.text_config.hidden_size,
        }

    def _model_capabilities(self) -> list[str]:
        names = ["completion"]
        if self._capabilities.max_images != 0:
            names.append("vision")
        if self._capabilities.takes_tools:
            names.append("tools")
        return names

    def _model_info(self) -> dict[str, Any]:
        """Returns the keys that GGUF files have, with the served context's length."""
        text = self._description.config.text_config
        vision = self._description.config.vision_config
        info = {
            "attention.head_count": text.num_attention_heads,
            "attention.head_count_kv": text.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": text.rms_norm_eps,
            "attention.cross_attention_layers": list(text.cross_attention_layers),
            "block_count": text.num_hidden_layers,
            "context_length": self._context_length,
            "embedding_length": text.hidden_size,
            "feed_forward_length": text.intermediate_size,
            "rope.dimension_count": text.head_dim,
            "rope.freq_base": text.rope_theta,
            "vocab_size": text.vocab_size,
            "vision.attention.head_count": vision.attention_heads,
            "vision.block_count": vision.num_hidden_layers,
            "vision.embedding_length": vision.hidden_size,
            "vision.feed_forward_length": vision.intermediate_size,
            "vision.global.block_count": vision.num_global_layers,
            "vision.image_size": vision.image_size,
            "vision.max_num_tiles": vision.max_num_tiles,
            "vision.num_channels": vision.num_channels,
            "vision.patch_size": vision.patch_size,
        }
        return {
            "general.architecture": _FAMILY,
            "general.basename": self._name,
            "general.parameter_count": self._parameters,
            **{f"{_FAMILY}.{name}": value for name, value in info.items()},
        }


_LEVELS: Final = {"float32": "F32", "bfloat16": "BF16"}
"""Ollama's names of encodings, where they aren't ours in capitals."""


def _rounded(count: int) -> str:
    """Returns a number of weights as Ollama shows it, such as ``10.7B``."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
