"""The routes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel

from mllama.server.bodies.schema import Body
from mllama.server.body_routes import Handler, StreamedAnswer, add_body_route
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.answers import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Detokenized,
    Model,
    ModelList,
    Tokenized,
)
from mllama.server.dialects.openai.chat_body import ChatBody
from mllama.server.dialects.openai.chat_route import ChatRoute
from mllama.server.dialects.openai.completion_body import CompletionBody
from mllama.server.dialects.openai.completion_route import CompletionRoute
from mllama.server.dialects.openai.errors import OPENAI_ERRORS, OpenAIErrors
from mllama.server.dialects.openai.model_routes import ModelRoutes
from mllama.server.dialects.openai.moderations.answers import Moderation
from mllama.server.dialects.openai.moderations.body import ModerationBody
from mllama.server.dialects.openai.moderations.errors import MODERATION_ERRORS
from mllama.server.dialects.openai.moderations.route import ModerationRoute
from mllama.server.dialects.openai.responses.answers import ResponseObject
from mllama.server.dialects.openai.responses.body import ResponsesBody
from mllama.server.dialects.openai.responses.errors import RESPONSES_ERRORS
from mllama.server.dialects.openai.responses.route import ResponsesRoute
from mllama.server.dialects.openai.token_bodies import (
    DetokenizeBody,
    TokenizeChatBody,
    TokenizeTextBody,
)
from mllama.server.dialects.openai.token_routes import TokenRoutes
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"
RESPONSES_PATH: Final = "/v1/responses"
MODERATIONS_PATH: Final = "/v1/moderations"

_DONE: Final = "; the last event is `[DONE]`"
_CHAT_STREAM: Final = StreamedAnswer(
    f"With `stream`, events whose data are chunks{_DONE}", [ChatCompletionChunk]
)
_COMPLETION_STREAM: Final = StreamedAnswer(
    f"With `stream`, events whose data are chunks{_DONE}", [CompletionChunk]
)
_RESPONSE_STREAM: Final = StreamedAnswer(
    "With `stream`, events with names and data from `response.created` to "
    "`response.completed`, `response.incomplete` or `response.failed`"
)

_ANSWERING: Final[
    Mapping[str, tuple[type[Body], type[BaseModel], StreamedAnswer | None]]
] = {
    CHAT_PATH: (ChatBody, ChatCompletion, _CHAT_STREAM),
    COMPLETIONS_PATH: (CompletionBody, Completion, _COMPLETION_STREAM),
    RESPONSES_PATH: (ResponsesBody, ResponseObject, _RESPONSE_STREAM),
    MODERATIONS_PATH: (ModerationBody, Moderation, None),
}
"""The models of bodies and answers of the routes that ask the model."""

_ERROR_FORMS: Final = {
    RESPONSES_PATH: RESPONSES_ERRORS,
    MODERATIONS_PATH: MODERATION_ERRORS,
}


def error_form(path: str) -> OpenAIErrors:
    """Returns the form of errors at a path of OpenAI's API."""
    return _ERROR_FORMS.get(path, OPENAI_ERRORS)


def answering_handlers(
    engine: EngineClient, capabilities: ServerCapabilities, fetcher: ImageFetcher
) -> dict[str, Handler]:
    """Returns what answers requests to the model, by their paths.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """
    return {
        CHAT_PATH: ChatRoute(engine, capabilities, fetcher),
        COMPLETIONS_PATH: CompletionRoute(engine, capabilities),
        RESPONSES_PATH: ResponsesRoute(engine, capabilities, fetcher),
        MODERATIONS_PATH: ModerationRoute(engine, capabilities, fetcher),
    }


def openai_router(
    engine: EngineClient, capabilities: ServerCapabilities, fetcher: ImageFetcher
) -> APIRouter:
    """Returns the routes of OpenAI's API.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """
    router = APIRouter(tags=["OpenAI"])
    handlers = answering_handlers(engine, capabilities, fetcher)
    models = ModelRoutes(capabilities)
    tokens = TokenRoutes(engine, capabilities)
    for path, (body, answer, stream) in _ANSWERING.items():
        add_body_route(router, path, handlers[path], [body], answer, stream)
    # SageMaker has another name for it.
    add_body_route(
        router,
        "/invocations",
        handlers[CHAT_PATH],
        [ChatBody],
        ChatCompletion,
        _CHAT_STREAM,
    )
    add_body_route(
        router,
        "/tokenize",
        tokens.tokenize,
        [TokenizeTextBody, TokenizeChatBody],
        Tokenized,
    )
    add_body_route(
        router, "/detokenize", tokens.detokenize, [DetokenizeBody], Detokenized
    )
    for path, handler, answer in (
        ("/v1/models", models.list_models, ModelList),
        # A name may contain slashes.
        ("/v1/models/{name:path}", models.get_model, Model),
    ):
        router.add_api_route(path, handler, response_model=answer)
        router.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
    return router


BODIES = (
    ChatBody,
    CompletionBody,
    ResponsesBody,
    ModerationBody,
    TokenizeTextBody,
    TokenizeChatBody,
    DetokenizeBody,
)
"""The bodies of all routes, for the API's schema."""

EVENTS = (ChatCompletionChunk, CompletionChunk)
"""The events of streams, for the API's schema."""
