"""``/health`` says whether requests are answered, ``/health/live`` that it can say."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mllama.errors import EngineUnavailableError
from mllama.server.errors import add_error_handlers
from mllama.server.health_routes import add_health_routes
from mllama.server.routes import error_form


class Engine:
    is_ready = True

    def unavailable(self) -> EngineUnavailableError:
        return EngineUnavailableError("the model's process has died", 7)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def client(engine: Engine) -> TestClient:
    app = FastAPI()
    add_health_routes(app, engine)
    add_error_handlers(app, error_form)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/ping"])
def test_readiness_is_that_of_the_engine(
    client: TestClient, engine: Engine, path: str
) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    engine.is_ready = False
    answer = client.get(path)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["message"] == "the model's process has died"
    assert client.head(path).status_code == 503


def test_the_server_lives_without_an_engine(client: TestClient, engine: Engine) -> None:
    engine.is_ready = False
    answer = client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})
    assert client.head("/health/live").status_code == 200
