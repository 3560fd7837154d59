"""``GET /v1/models`` and ``GET /v1/models/NAME``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from mllama.server.capabilities import ServerCapabilities
from mllama.server.model_names import check_model


class ModelRoutes:
    """Names the served model.

    Args:
        capabilities: Features and limits of the server.
    """

    def __init__(self, capabilities: ServerCapabilities) -> None:
        self._capabilities = capabilities

    async def list_models(self, request: Request) -> JSONResponse:
        """Lists the served model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def get_model(self, request: Request, name: str) -> JSONResponse:
        """Returns the served model, by one of its names."""
        check_model(name, self._capabilities.model_name)
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._capabilities.model_name,
            "object": "model",
            "created": self._capabilities.created,
            "owned_by": "mllama",
            "max_model_len": self._capabilities.max_length,
            "attention": self._capabilities.attention,
        }
