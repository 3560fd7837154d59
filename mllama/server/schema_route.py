"""``GET /openapi.json``: the schema of all routes, with their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse

from mllama.version import __version__

PATH = "/openapi.json"


def openapi_schema(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Returns the schema of an application's routes.

    Args:
        app: The application.
        bodies: Models of bodies, which routes read by themselves.
    """
    schema = get_openapi(title="mllama", version=__version__, routes=app.routes)
    _, definitions = models_json_schema(
        [(body, "validation") for body in bodies],
        ref_template="#/components/schemas/{model}",
    )
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    # Bodies and answers have models of the same names, such as ToolCall.
    clashes = schemas.keys() & definitions["$defs"].keys()
    if clashes:
        raise ValueError(f"several models are called {', '.join(sorted(clashes))}")
    schemas.update(definitions["$defs"])
    return schema


def add_schema_route(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> None:
    """Adds the route of the schema; later routes are in it too."""

    async def schema(request: Request) -> JSONResponse:
        return JSONResponse(openapi_schema(app, bodies))

    app.add_api_route(PATH, schema, include_in_schema=False)
