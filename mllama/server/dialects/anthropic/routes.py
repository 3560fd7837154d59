"""The routes of Anthropic's API."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.types import Scope

from mllama.server.access.policy import is_at
from mllama.server.body_routes import add_body_route
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.anthropic.answers import (
    Message,
    MessageErrorAnswer,
    TokenCount,
)
from mllama.server.dialects.anthropic.message_body import CountTokensBody, MessageBody
from mllama.server.dialects.anthropic.message_route import MessageRoutes
from mllama.server.dialects.anthropic.model_routes import (
    ModelRoutes,
    VersionedRoute,
    is_versioned,
)
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher

PATH: Final = "/v1/messages"
MODELS_PATH: Final = "/v1/models"


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
    router.add_api_route(MODELS_PATH, models.list_models)
    router.add_api_route(f"{MODELS_PATH}/{{name:path}}", models.get_model)
    return router


def is_anthropic_request(path: str, scope: Scope) -> bool:
    """Returns True if a request is for this API, with or without a route.

    Args:
        path: The request's path.
        scope: Its ASGI scope; at the paths of models, which OpenAI's API has too, the
            headers tell.
    """
    if is_at(path, MODELS_PATH):
        return is_versioned(scope)
    return is_at(path, PATH)


BODIES = (MessageBody, CountTokensBody)
"""The bodies of all routes, for the API's schema."""
