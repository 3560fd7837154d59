"""The routes of Anthropic's API."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.types import Scope

from mllama.server.access.policy import is_at
from mllama.server.body_routes import StreamedAnswer, add_body_route
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.anthropic.answers import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Message,
    MessageDelta,
    MessageErrorAnswer,
    MessageStart,
    MessageStop,
    ModelInfo,
    ModelPage,
    Ping,
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

EVENTS: Final = (
    MessageStart,
    BlockStart,
    BlockDelta,
    BlockStop,
    MessageDelta,
    MessageStop,
    Ping,
    MessageErrorAnswer,
)
"""The events of streams, for the API's schema."""

_VERSION_HEADER: Final = {
    "name": "anthropic-version",
    "in": "header",
    "description": "Any value asks for the answers of Anthropic's API",
    "schema": {"type": "string"},
}


def anthropic_router(
    engine: EngineClient, capabilities: ServerCapabilities, fetcher: ImageFetcher
) -> APIRouter:
    """Returns the routes of Anthropic's API.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """
    router = APIRouter(tags=["Anthropic"])
    messages = MessageRoutes(engine, capabilities, fetcher)
    stream = StreamedAnswer("With `stream`, events with names and data", EVENTS)
    add_body_route(router, PATH, messages.create, [MessageBody], Message, stream)
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
    router = APIRouter(route_class=VersionedRoute, tags=["Anthropic"])
    models = ModelRoutes(capabilities)
    router.add_api_route(
        MODELS_PATH,
        models.list_models,
        name="anthropic_models",
        summary="List Models",
        response_model=ModelPage,
        openapi_extra={
            "parameters": [
                _VERSION_HEADER,
                *(
                    {"name": name, "in": "query", "schema": {"type": "string"}}
                    for name in ("after_id", "before_id")
                ),
            ]
        },
    )
    router.add_api_route(
        f"{MODELS_PATH}/{{name:path}}",
        models.get_model,
        name="anthropic_model",
        summary="Get Model",
        response_model=ModelInfo,
        openapi_extra={"parameters": [_VERSION_HEADER]},
    )
    for path, handler in (
        (MODELS_PATH, models.list_models),
        (f"{MODELS_PATH}/{{name:path}}", models.get_model),
    ):
        router.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
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
