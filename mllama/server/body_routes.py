"""Routes that read their bodies by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from mllama.max_compat.server import ClientDisconnected
from mllama.server.errors import HANDLED, UnforeseenError
from mllama.server.event_stream import EVENT_STREAM

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class StreamedAnswer:
    """What a route answers as a stream, for the API's schema.

    Attributes:
        description: When the answer is a stream, and what its events are.
        events: The models of which an event is one; none if they have no models.
        media_type: The content type.
    """

    description: str
    events: Sequence[type[BaseModel]] = ()
    media_type: str = EVENT_STREAM

    def content(self) -> dict[str, Any]:
        """Returns the content of a response, with the events' schema as ``x-event``."""
        schema: dict[str, Any] = {"type": "string", "description": self.description}
        content: dict[str, Any] = {"schema": schema}
        if self.events:
            content["x-event"] = one_of(self.events)
        return {self.media_type: content}


def one_of(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Returns the schema of a value that is of one of these models."""
    schemas = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def add_body_route(
    router: APIRouter,
    path: str,
    handler: Handler,
    bodies: Sequence[type[BaseModel]],
    answer: type[BaseModel],
    stream: StreamedAnswer | None = None,
) -> None:
    """Adds a route that reads its body by itself.

    Args:
        router: Gets the route.
        path: The route's path.
        handler: Answers requests.
        bodies: The models of which a body is one, for the API's schema.
        answer: The model of the answer, for the API's schema.
        stream: What it is as a stream, if it can be one.
    """

    async def answer_request(request: Request) -> Response:
        try:
            return await handler(request)
        except (*HANDLED, ClientDisconnected):
            raise
        except ClientDisconnect as error:
            # Amid the body, which is nobody's fault here.
            raise ClientDisconnected from error
        except Exception as error:
            # MAX would answer in OpenAI's form, whatever the API.
            raise UnforeseenError from error

    router.add_api_route(
        path,
        answer_request,
        methods=["POST"],
        name=path,
        summary=(bodies[0].__doc__ or "").partition("\n")[0],
        response_class=JSONResponse,
        responses={
            200: {
                "model": answer,
                "description": "The answer",
                "content": {} if stream is None else stream.content(),
            }
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": one_of(bodies)}},
            }
        },
    )
