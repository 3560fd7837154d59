"""``GET /openapi.json``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from mllama.server.errors import ErrorForm
from mllama.server.openapi import openapi_document

PATH: Final = "/openapi.json"


def add_schema_route(
    app: FastAPI,
    bodies: Sequence[type[BaseModel]],
    events: Sequence[type[BaseModel]],
    form_of: Callable[[Scope], ErrorForm],
    *,
    beside: Sequence[BaseRoute] = (),
) -> None:
    """Adds the route of the OpenAPI document; routes that are added later are in it.

    Args:
        app: The application.
        bodies: Models of bodies, which routes read by themselves.
        events: Models of the events of streams.
        form_of: Returns the form of a request's errors.
        beside: Routes that have paths of others.
    """
    documents: dict[str, bytes] = {}

    async def schema(request: Request) -> Response:
        """Describes all routes, as an OpenAPI document."""
        root_path = str(request.scope.get("root_path", ""))
        if root_path not in documents:
            # Takes a third of a second, in which the event loop answers others.
            document = await asyncio.to_thread(
                openapi_document,
                app,
                bodies,
                events,
                form_of,
                beside=beside,
                root_path=root_path,
            )
            documents[root_path] = json.dumps(document).encode()
        return Response(documents[root_path], media_type="application/json")

    app.add_api_route(
        PATH,
        schema,
        summary="Schema",
        responses={
            200: {
                "description": "The document",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    )
