"""``GET /v1/models`` and ``GET /v1/models/NAME`` in Anthropic's form.

OpenAI's API has the same paths. Requests of Anthropic's clients have the header
``anthropic-version``.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from mllama.server.capabilities import ServerCapabilities
from mllama.server.model_names import check_model

_VERSION = b"anthropic-version"


def is_versioned(scope: Scope) -> bool:
    """Returns True if a request has the header ``anthropic-version``."""
    return any(name == _VERSION for name, _ in scope["headers"])


class VersionedRoute(APIRoute):
    """A route for requests with the header ``anthropic-version``."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Returns how well a request matches."""
        if scope["type"] != "http" or not is_versioned(scope):
            return Match.NONE, {}
        return super().matches(scope)


class ModelRoutes:
    """Names the served model.

    Args:
        capabilities: Features and limits of the server.
    """

    def __init__(self, capabilities: ServerCapabilities) -> None:
        self._capabilities = capabilities

    async def list_models(self, request: Request) -> Response:
        """Lists the served model, unless the request asks for those beside it."""
        is_page = request.query_params.keys() & {"after_id", "before_id"}
        data = [] if is_page else [self._model()]
        ids = [model["id"] for model in data] or [None]
        return JSONResponse(
            {"data": data, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}
        )

    async def get_model(self, request: Request, name: str) -> Response:
        """Returns the served model, by one of its names."""
        check_model(name, self._capabilities.model_name)
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        created = datetime.fromtimestamp(self._capabilities.created, timezone.utc)
        name = self._capabilities.model_name
        return {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": created.isoformat().replace("+00:00", "Z"),
            "lifecycle": "active",
            "max_input_tokens": self._capabilities.max_length,
            "max_tokens": self._capabilities.max_length,
        }
