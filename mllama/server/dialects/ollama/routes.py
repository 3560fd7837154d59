"""The routes of Ollama's API."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from mllama.server.body_routes import StreamedAnswer, add_body_route
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.ollama.answer import NDJSON
from mllama.server.dialects.ollama.answers import (
    OllamaChatAnswer,
    OllamaGenerateAnswer,
    OllamaProcessesAnswer,
    OllamaShowAnswer,
    OllamaTagsAnswer,
    OllamaVersionAnswer,
)
from mllama.server.dialects.ollama.bodies import (
    OllamaChatBody,
    OllamaGenerateBody,
    OllamaShowBody,
)
from mllama.server.dialects.ollama.generation_routes import GenerationRoutes
from mllama.server.dialects.ollama.model_routes import ModelRoutes
from mllama.server.dialects.ollama.refused_routes import add_refused_routes
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher

BODIES: Final = (OllamaChatBody, OllamaGenerateBody, OllamaShowBody)
"""The bodies of all routes, for the API's schema."""

_LINES: Final = "Without `stream` or with a true one, lines of JSON"


def is_ollama_path(path: str) -> bool:
    """Returns True for paths of Ollama's API, with or without a route."""
    return path == "/api" or path.startswith("/api/")


def ollama_router(
    engine: EngineClient, capabilities: ServerCapabilities, fetcher: ImageFetcher
) -> APIRouter:
    """Returns the routes of Ollama's API.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.

    Raises:
        MllamaError: If the model's own options, in Ollama's store, can't be honored.
    """
    router = APIRouter(tags=["Ollama"])
    answers = GenerationRoutes(engine, capabilities, fetcher)
    models = ModelRoutes(capabilities)
    add_body_route(
        router,
        "/api/chat",
        answers.chat,
        [OllamaChatBody],
        OllamaChatAnswer,
        StreamedAnswer(_LINES, [OllamaChatAnswer], NDJSON),
    )
    add_body_route(
        router,
        "/api/generate",
        answers.generate,
        [OllamaGenerateBody],
        OllamaGenerateAnswer,
        StreamedAnswer(_LINES, [OllamaGenerateAnswer], NDJSON),
    )
    add_body_route(router, "/api/show", models.show, [OllamaShowBody], OllamaShowAnswer)
    for method in ("GET", "HEAD"):
        router.add_api_route(
            "/", models.greet, methods=[method], response_class=PlainTextResponse
        )
    for path, handler, answer in (
        ("/api/version", models.version, OllamaVersionAnswer),
        ("/api/tags", models.list_models, OllamaTagsAnswer),
        ("/api/ps", models.list_running, OllamaProcessesAnswer),
    ):
        for method in ("GET", "HEAD"):
            router.add_api_route(path, handler, methods=[method], response_model=answer)
    add_refused_routes(router)
    return router
