"""All routes of the server: this package's, and those of MAX that are kept."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from mllama.max_compat import patches
from mllama.max_compat.server import (
    ServingTokenGeneratorSettings,
    Settings,
    fastapi_app,
)
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.errors import OPENAI_ERRORS
from mllama.server.dialects.openai.routes import BODIES, openai_router
from mllama.server.engine_client import EngineClient
from mllama.server.errors import ErrorForm, add_error_handlers
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.schema_route import add_schema_route

MAX_ROUTES: Final = ("/health", "/version", "/metrics")
"""Paths that MAX answers.  Its others are for models, or for purposes, that this server
doesn't have, and some would reach the model past this package's checks."""


def error_form(path: str) -> ErrorForm:
    """Returns the form of errors at a path, of one without a route too."""
    return OPENAI_ERRORS


def new_application(
    settings: Settings, serving: ServingTokenGeneratorSettings
) -> FastAPI:
    """Returns MAX's application with those of its routes that are kept.

    Args:
        settings: Settings of the server.
        serving: MAX's settings of the model.
    """
    app = fastapi_app(settings, serving)
    patches.keep_routes(app, MAX_ROUTES)
    add_error_handlers(app, error_form)
    return app


def add_routes(
    app: FastAPI,
    engine: EngineClient,
    capabilities: ServerCapabilities,
    fetcher: ImageFetcher,
) -> None:
    """Adds this server's routes to an application.

    Args:
        app: The application.
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """
    app.include_router(openai_router(engine, capabilities, fetcher))
    # SageMaker's name of /health.
    app.add_api_route("/ping", _ping)
    add_schema_route(app, BODIES)


async def _ping(request: Request) -> Response:
    """Says that the server is up."""
    return Response()
