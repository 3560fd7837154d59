"""The routes of Anthropic's API."""

from __future__ import annotations

from fastapi import APIRouter

from mllama.server.body_routes import add_body_route
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.anthropic.answers import (
    Message,
    MessageErrorAnswer,
    TokenCount,
)
from mllama.server.dialects.anthropic.message_body import CountTokensBody, MessageBody
from mllama.server.dialects.anthropic.message_route import MessageRoutes
from mllama.server.dialects.anthropic.model_routes import ModelRoutes, VersionedRoute
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher

PATH = "/v1/messages"


def anthropic_router(
    engine: EngineClient, capabilities: ServerCapabilities, fetcher: ImageFetcher
) -> APIRouter:
    """Returns the routes of Anthropic's API.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """
    router = APIRouter(responses={"default": {"model": MessageErrorAnswer}})
    messages = MessageRoutes(engine, capabilities, fetcher)
    add_body_route(router, PATH, messages.create, [MessageBody], Message)
    add_body_route(
        router,
        f"{PATH}/count_tokens",
        messages.count_tokens,
        [CountTokensBody],
        TokenCount,
    )
    return router


def anthropic_models_router(capabilities: ServerCapabilities) -> APIRouter:
    """Returns the routes of models, for requests with ``anthropic-version``.

    They have the paths of OpenAI's API, and must precede its routes.

    Args:
        capabilities: Features and limits of the server.
    """
    router = APIRouter(route_class=VersionedRoute, include_in_schema=False)
    models = ModelRoutes(capabilities)
    router.add_api_route("/v1/models", models.list_models)
    router.add_api_route("/v1/models/{name:path}", models.get_model)
    return router


def is_anthropic_path(path: str) -> bool:
    """Returns True if a path belongs to this API, with or without a route."""
    return path == PATH or path.startswith(f"{PATH}/")


BODIES = (MessageBody, CountTokensBody)
"""The bodies of all routes, for the API's schema."""
