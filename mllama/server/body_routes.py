"""Routes that read their bodies by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mllama.max_compat.server import ClientDisconnected
from mllama.server.errors import HANDLED, UnforeseenError

Handler = Callable[[Request], Awaitable[Response]]


def add_body_route(
    router: APIRouter,
    path: str,
    handler: Handler,
    bodies: Sequence[type[BaseModel]],
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
        try:
            return await handler(request)
        except (*HANDLED, ClientDisconnected):
            raise
        except Exception as error:
            # MAX would answer in OpenAI's form, whatever the API.
            raise UnforeseenError from error

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
