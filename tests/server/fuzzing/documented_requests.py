"""Requests that schemathesis makes of the OpenAPI document."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import schemathesis
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from .exchange import Exchange, Headers


def documented_requests(
    document: Any, mode: str, headers: Headers
) -> dict[str, SearchStrategy[Exchange]]:
    """Returns requests by operation.

    Args:
        document: The OpenAPI document.
        mode: Whether they follow the schemas, ``positive`` or ``negative``.
        headers: Headers of all requests.
    """
    schema = schemathesis.openapi.from_dict(document)
    requests = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        described = document["paths"][operation.path][operation.method]
        has_schema = described.get("requestBody", {}).get("required") or any(
            each["in"] == "query" for each in described.get("parameters", ())
        )
        if mode == "positive" or has_schema:
            cases = operation.as_strategy(generation_mode=GenerationMode(mode))
            requests[operation.label] = cases.map(lambda case: _exchange(case, headers))
    return requests


def _exchange(case: Any, headers: Headers) -> Exchange:
    path = case.path
    for name, value in (case.path_parameters or {}).items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    if case.query:
        values = {
            key: value if isinstance(value, (str, list)) else json.dumps(value)
            for key, value in case.query.items()
        }
        path += "?" + urlencode(values, doseq=True, errors="replace")
    given = tuple(
        (name.lower(), str(value))
        for name, value in (case.headers or {}).items()
        if isinstance(value, str) and value.isprintable() and value.isascii()
    )
    return Exchange(case.method, path, (*headers, *given), _body(case.body))


def _body(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if type(body).__name__ == "NotSet":
        return b""
    return json.dumps(body, default=str).encode()
