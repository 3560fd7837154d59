"""The server has these routes and no others, whatever MAX offers."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mllama.max_compat.server import (
    ServingTokenGeneratorSettings,
    Settings,
)
from mllama.server.capabilities import ServerCapabilities
from mllama.server.options import ServerOptions
from mllama.server.routes import add_routes, new_application
from tests.server.dialects.fake_engine import FakeEngine

ROUTES = {
    "/": {"GET", "HEAD"},
    "/api/blobs/{digest}": {"HEAD", "POST"},
    "/api/chat": {"POST"},
    "/api/copy": {"POST"},
    "/api/create": {"POST"},
    "/api/delete": {"DELETE"},
    "/api/embed": {"POST"},
    "/api/embeddings": {"POST"},
    "/api/generate": {"POST"},
    "/api/ps": {"GET", "HEAD"},
    "/api/pull": {"POST"},
    "/api/push": {"POST"},
    "/api/show": {"POST"},
    "/api/tags": {"GET", "HEAD"},
    "/api/version": {"GET", "HEAD"},
    "/detokenize": {"POST"},
    "/health": {"GET", "HEAD"},
    "/health/live": {"GET", "HEAD"},
    "/health/ready": {"GET", "HEAD"},
    "/invocations": {"POST"},
    "/metrics": {"GET", "HEAD"},
    "/openapi.json": {"GET"},
    "/page/{name}": {"GET", "HEAD"},
    "/ping": {"GET", "HEAD"},
    "/tokenize": {"POST"},
    "/v1/chat/completions": {"POST"},
    "/v1/completions": {"POST"},
    "/v1/messages": {"POST"},
    "/v1/messages/count_tokens": {"POST"},
    "/v1/models": {"GET", "HEAD"},
    "/v1/models/{name:path}": {"GET", "HEAD"},
    "/v1/moderations": {"POST"},
    "/v1/responses": {"POST"},
    "/version": {"GET"},
}
"""Each has a test: that a route exists is a promise."""


@pytest.fixture(scope="module")
def app() -> FastAPI:
    unused: Any = None
    app = new_application(
        Settings(
            MAX_SERVE_MAX_REQUEST_BYTES=1000,
        ),
        ServingTokenGeneratorSettings(
            model_factory=unused, pipeline_config=unused, tokenizer=unused
        ),
        ServerOptions(host="0.0.0.0", port=8000),
    )
    fetcher: Any = None
    capabilities = ServerCapabilities(model_name="served", vocabulary=258)
    add_routes(app, FakeEngine(), capabilities, fetcher)
    return app


@pytest.fixture(scope="module")
def client(app: FastAPI) -> TestClient:
    return TestClient(app)


def all_routes(routes: Any) -> dict[str, set[str]]:
    """The paths of routes and their methods."""
    found: dict[str, set[str]] = {}
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found.update(all_routes(inner.routes))
            continue
        methods = set(getattr(route, "methods", None) or ())
        found.setdefault(route.path, set()).update(methods)
    return found


def test_the_routes_are_these(app: FastAPI) -> None:
    assert all_routes(app.routes) == ROUTES


@pytest.mark.parametrize("path", ["/health", "/version", "/ping", "/metrics"])
def test_probes_are_answered(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/decisions"),
        ("POST", "/v1/systemone"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/reset_prefix_cache"),
        ("GET", "/max_internal/eplb_stats"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
    ],
)
def test_other_routes_of_max_are_not_there(
    client: TestClient, method: str, path: str
) -> None:
    response = client.request(method, path, json={})
    assert response.status_code == 404
    assert path in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", "invalid_request_error"),
        ("/v1/messages", "request_too_large"),
    ],
)
def test_a_body_over_the_limit_gets_413_in_the_same_form(
    client: TestClient, path: str, kind: str
) -> None:
    response = client.post(path, content=b"x" * 1001)
    assert response.status_code == 413
    error = response.json()["error"]
    assert error["type"] == kind
    assert error["message"].endswith("1000 bytes (MAX_SERVE_MAX_REQUEST_BYTES).")


def test_requests_have_an_id(client: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert response.headers["x-request-id"]


def test_an_unforeseen_error_is_a_500_in_the_same_form(app: FastAPI) -> None:
    class Broken(FakeEngine):
        async def tokenize(self, prompt: Any) -> list[int]:
            raise KeyError("unforeseen")

    broken = new_application(
        Settings(),
        ServingTokenGeneratorSettings(None, None, None),  # type: ignore[arg-type]
        ServerOptions(host="0.0.0.0", port=8000),
    )
    capabilities = ServerCapabilities(model_name="served", vocabulary=258)
    add_routes(broken, Broken(), capabilities, None)  # type: ignore[arg-type]
    client = TestClient(broken, raise_server_exceptions=False)
    response = client.post("/tokenize", json={"prompt": "Hi"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "its log has the reason" in response.json()["error"]["message"]
    assert "unforeseen" not in response.text
