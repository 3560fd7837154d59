"""All routes of the server: this package's, and those of MAX that are kept."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from mllama.max_compat import patches
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.errors import add_error_handlers
from mllama.server.dialects.openai.routes import BODIES, openai_router
from mllama.server.dialects.openai.schema_route import add_schema_route
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher

MAX_ROUTES: Final = ("/health", "/version", "/metrics")
"""Paths that MAX answers.  Its others are for models, or for purposes, that this server
doesn't have, and some would reach the model past this package's checks."""


def set_routes(
    app: FastAPI,
    engine: EngineClient,
    capabilities: ServerCapabilities,
    fetcher: ImageFetcher,
) -> None:
    """Gives MAX's application the routes of this server, and removes MAX's own.

    Args:
        app: MAX's application.
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """
    patches.keep_routes(app, MAX_ROUTES)
    add_error_handlers(app)
    app.include_router(openai_router(engine, capabilities, fetcher))
    # SageMaker's name of /health.
    app.add_api_route("/ping", _ping)
    add_schema_route(app, BODIES)


async def _ping(request: Request) -> Response:
    """Says that the server is up."""
    return Response()
