"""Routes of Ollama's API that this server refuses: embeddings and model files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

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


def add_refused_routes(router: APIRouter) -> None:
    """Adds the routes that refuse every request."""
    for (method, path), reason in REFUSED.items():
        refusal = _refusal(path.partition("/{")[0], reason)
        router.add_api_route(path, refusal, methods=[method])


def _refusal(path: str, reason: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise RequestRejected(f"{path} is not possible: {reason}.")

    return refuse
