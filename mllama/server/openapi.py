"""The OpenAPI document of all routes, as ``GET /openapi.json`` returns it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute
from starlette.types import Scope

from mllama.server.access.policy import METRICS, PROBES, is_at
from mllama.server.errors import ErrorForm
from mllama.version import __version__

_SCHEMAS: Final = "#/components/schemas/"

_METHODS: Final = frozenset({"get", "head", "post", "put", "patch", "delete"})

_HEAD_ERRORS: Final = {
    403: "Neither this `Host` nor the web page of this `Origin` may use the server",
    431: "Path and headers are too large",
}
_KEY_MISSING: Final = {401: "The server needs a key, which is missing or wrong"}
_BODY_ERRORS: Final = {
    400: "The body is wrong: the message names the field and the way out",
    413: "The body is larger than the server accepts",
    415: "The body is compressed or not in UTF-8, or a web page sent another content "
    "type than `application/json`",
}
_ENGINE_ERRORS: Final = {
    429: "More requests wait than the server accepts; `Retry-After` says when to retry",
    500: "The server failed on this request; its log has the reason",
    503: "The model can't answer now; `Retry-After` says when to retry",
}
_MODEL_MISSING: Final = {404: "The server has no model of this name"}

_ANYTHING: Final[dict[str, Any]] = {"application/json": {"schema": {}}}
"""What FastAPI says of an answer without a model."""

_RETRY_AFTER: Final = {
    "Retry-After": {"description": "In seconds", "schema": {"type": "string"}}
}

_SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""How clients send a key, if the server is started with some."""

_METRICS_PAGE: Final = {
    "summary": "Metrics",
    "description": "Metrics in the text format of Prometheus.",
    "responses": {
        "200": {
            "description": "All metrics",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
}


def openapi_document(
    app: FastAPI,
    bodies: Sequence[type[BaseModel]],
    events: Sequence[type[BaseModel]],
    form_of: Callable[[Scope], ErrorForm],
    *,
    beside: Sequence[BaseRoute] = (),
    root_path: str = "",
) -> dict[str, Any]:
    """Returns the OpenAPI document of an application.

    Args:
        app: The application.
        bodies: Models of bodies, which routes read by themselves.
        events: Models of the events of streams.
        form_of: Returns the form of a request's errors, by its path.
        beside: Routes of ``app`` that have paths of others, which a header tells apart.
        root_path: The path under which a proxy has the server.
    """
    document = get_openapi(
        title="mllama",
        version=__version__,
        summary="Llama 3.2 Vision in the APIs of OpenAI, Anthropic and Ollama",
        routes=app.routes,
        servers=[{"url": root_path or "/"}],
    )
    for path, operations in _described(beside)["paths"].items():
        for method, operation in operations.items():
            _merge(document["paths"][path][method], operation)
    for mount in app.routes:
        if getattr(mount, "path", None) == METRICS:
            document["paths"][METRICS] = {"get": dict(_METRICS_PAGE)}
    forms = [form_of(_scope(path)) for path in document["paths"]]
    errors = {form.answer: None for form in forms}
    components = document.setdefault("components", {})
    components["securitySchemes"] = dict(_SECURITY)
    found = components.setdefault("schemas", {})
    _add_models(found, bodies, "validation")
    _add_models(found, [*events, *errors], "serialization")
    for path, operations in document["paths"].items():
        answers = _error_models(path, operations, form_of)
        for method in operations.keys() & _METHODS:
            _complete(operations[method], path, method, answers)
    # FastAPI's own errors, which no route has.
    for name in ("HTTPValidationError", "ValidationError"):
        found.pop(name, None)
    return document


def _described(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    return get_openapi(title="mllama", version=__version__, routes=routes)


def _add_models(
    found: dict[str, Any], models: Sequence[type[BaseModel]], mode: Any
) -> None:
    """Adds the schemas of models, of which no two may have the same name."""
    _, definitions = models_json_schema(
        [(model, mode) for model in models], ref_template=f"{_SCHEMAS}{{model}}"
    )
    for name, definition in definitions.get("$defs", {}).items():
        schema = _without_null_defaults(definition)
        # Bodies and answers could have different models of one name.
        if found.setdefault(name, schema) != schema:
            raise ValueError(f"several models are called {name}")


def _without_null_defaults(value: Any) -> Any:
    """Returns a schema in which null isn't said to be a default, as in FastAPI's."""
    if isinstance(value, list):
        return [_without_null_defaults(each) for each in value]
    if isinstance(value, dict):
        return {
            key: _without_null_defaults(each)
            for key, each in value.items()
            if key != "default" or each is not None
        }
    return value


def _scope(path: str, *headers: str) -> Scope:
    return {
        "type": "http",
        "path": path,
        "headers": [(name.encode(), b"any") for name in headers],
    }


def _error_models(
    path: str, operations: Mapping[str, Any], form_of: Callable[[Scope], ErrorForm]
) -> list[str]:
    """Returns the names of the models of a path's errors: several, if headers tell."""
    headers = [
        parameter["name"]
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "header"
    ]
    scopes = (_scope(path), _scope(path, *headers))
    names = {form_of(scope).answer.__name__: None for scope in scopes}
    return list(names)


def _merge(operation: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Adds what another route of a path answers to an operation."""
    parameters = operation.setdefault("parameters", [])
    known = {each["name"] for each in parameters}
    parameters += [
        each for each in other.get("parameters", ()) if each["name"] not in known
    ]
    content = operation["responses"]["200"]["content"]["application/json"]
    answer = other["responses"]["200"]["content"]["application/json"]
    content["schema"] = {"anyOf": [content["schema"], answer["schema"]]}


def _complete(
    operation: dict[str, Any], path: str, method: str, errors: Sequence[str]
) -> None:
    """Gives an operation its id, keys and errors."""
    words = re.sub(r"\W+", "_", path).strip("_") or "root"
    operation["operationId"] = f"{method}_{words}"
    responses = operation["responses"]
    responses.pop("422", None)
    statuses: dict[int, str] = dict(_HEAD_ERRORS)
    if not is_at(path, *PROBES):
        statuses |= _KEY_MISSING
        operation["security"] = [{}, *({name: []} for name in _SECURITY)]
    if method in ("post", "put", "patch", "delete"):
        statuses |= _BODY_ERRORS
    if operation.get("requestBody", {}).get("required"):
        statuses |= _MODEL_MISSING | _ENGINE_ERRORS
    if "503" in responses:
        statuses |= {503: _ENGINE_ERRORS[503]}
    if "{name}" in path:
        statuses |= _MODEL_MISSING
    statuses = {int(each): "" for each in responses if each >= "400"} | statuses
    references = [{"$ref": f"{_SCHEMAS}{name}"} for name in errors]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    for response in responses.values():
        # Of a probe, whose status may say it all.
        if is_at(path, *PROBES) and response.get("content") == _ANYTHING:
            del response["content"]
    for status, description in sorted(statuses.items()):
        given = responses.get(str(status), {})
        responses[str(status)] = {
            "description": given.get("description", description),
            "content": {"application/json": {"schema": schema}},
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
    operation["responses"] = dict(sorted(responses.items()))
    if method == "head":
        for response in operation["responses"].values():
            response.pop("content", None)
