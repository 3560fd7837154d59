"""The routes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.answers import (
    ChatCompletion,
    Completion,
    Detokenized,
    ErrorAnswer,
    Model,
    ModelList,
    Tokenized,
)
from mllama.server.dialects.openai.chat_body import ChatBody
from mllama.server.dialects.openai.chat_route import ChatRoute
from mllama.server.dialects.openai.completion_body import CompletionBody
from mllama.server.dialects.openai.completion_route import CompletionRoute
from mllama.server.dialects.openai.model_routes import ModelRoutes
from mllama.server.dialects.openai.token_bodies import (
    DetokenizeBody,
    TokenizeChatBody,
    TokenizeTextBody,
)
from mllama.server.dialects.openai.token_routes import TokenRoutes
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher

Handler = Callable[..., Awaitable[Response]]


def openai_router(
    engine: EngineClient, capabilities: ServerCapabilities, fetcher: ImageFetcher
) -> APIRouter:
    """Returns the routes of OpenAI's API.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """
    router = APIRouter(responses={"default": {"model": ErrorAnswer}})
    chat = ChatRoute(engine, capabilities, fetcher)
    completion = CompletionRoute(engine, capabilities)
    models = ModelRoutes(capabilities)
    tokens = TokenRoutes(engine, capabilities)
    _post(router, "/v1/chat/completions", chat, [ChatBody], ChatCompletion)
    # SageMaker's name for it.
    _post(router, "/invocations", chat, [ChatBody], ChatCompletion)
    _post(router, "/v1/completions", completion, [CompletionBody], Completion)
    _post(
        router,
        "/tokenize",
        tokens.tokenize,
        [TokenizeTextBody, TokenizeChatBody],
        Tokenized,
    )
    _post(router, "/detokenize", tokens.detokenize, [DetokenizeBody], Detokenized)
    router.add_api_route("/v1/models", models.list_models, response_model=ModelList)
    # A name may contain slashes.
    router.add_api_route(
        "/v1/models/{name:path}", models.get_model, response_model=Model
    )
    return router


def _post(
    router: APIRouter,
    path: str,
    handler: Handler,
    bodies: list[type[BaseModel]],
    answer: type[BaseModel],
) -> None:
    """Adds a route that reads its body by itself.

    Args:
        router: Gets the route.
        path: The route's path.
        handler: Answers requests.
        bodies: The models of which a body is one, for the API's schema.
        answer: The model of the answer, for the API's schema.
    """

    async def answer_request(request: Request) -> Response:
        return await handler(request)

    schemas: list[Any] = [
        {"$ref": f"#/components/schemas/{body.__name__}"} for body in bodies
    ]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    router.add_api_route(
        path,
        answer_request,
        methods=["POST"],
        name=path,
        summary=(bodies[0].__doc__ or "").partition("\n")[0],
        response_class=JSONResponse,
        responses={200: {"model": answer}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema}},
            }
        },
    )


BODIES = (
    ChatBody,
    CompletionBody,
    TokenizeTextBody,
    TokenizeChatBody,
    DetokenizeBody,
)
"""The bodies of all routes, for the API's schema."""
