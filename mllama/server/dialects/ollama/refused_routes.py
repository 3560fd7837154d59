"""Routes of Ollama's API that this server refuses: embeddings and model files."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mllama.server.bodies.rejection import RequestRejected

_MODELS: Final = (
    "the server has the one model that it was started with; start `mllama serve "
    "--model-path NAME` for another"
)
_EMBEDDINGS: Final = "this model makes no embeddings; use an embedding model for them"

REFUSED: Final = {
    ("POST", "/api/embed"): _EMBEDDINGS,
    ("POST", "/api/embeddings"): _EMBEDDINGS,
    ("POST", "/api/pull"): _MODELS,
    ("POST", "/api/push"): _MODELS,
    ("POST", "/api/create"): _MODELS,
    ("POST", "/api/copy"): _MODELS,
    ("DELETE", "/api/delete"): _MODELS,
    ("POST", "/api/blobs/{digest}"): _MODELS,
    ("HEAD", "/api/blobs/{digest}"): _MODELS,
}
"""What is refused, and why."""

_ANY_BODY: Final[dict[str, Any]] = {"requestBody": {"content": {"*/*": {"schema": {}}}}}


def add_refused_routes(router: APIRouter) -> None:
    """Adds the routes that refuse every request."""
    for (method, path), reason in REFUSED.items():
        refusal = _refusal(path.partition("/{")[0], reason)
        router.add_api_route(
            path,
            refusal,
            methods=[method],
            status_code=400,
            summary="Refused",
            description=f"Not possible: {reason}.",
            response_description="It is not possible; the message says why",
            openapi_extra={"parameters": _parameters(path)} | _ANY_BODY,
        )


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _refusal(path: str, reason: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise RequestRejected(f"{path} is not possible: {reason}.")

    return refuse
