"""The routes of OpenAI's API over an engine that answers with given texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mllama.errors import ImageError
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.errors import add_error_handlers
from mllama.server.dialects.openai.routes import BODIES, openai_router
from mllama.server.dialects.openai.schema_route import add_schema_route

from .fake_engine import SPECIAL, VOCABULARY, FakeEngine

USER = {"role": "user", "content": "Hi"}


class FakeFetcher:
    """Has the contents of URLs."""

    def __init__(self) -> None:
        self.contents = {"http://pictures/one.png": b"one"}

    async def fetch(self, url: str, charge: Callable[[int], None]) -> bytes:
        if url not in self.contents:
            raise ImageError(f"{url} can't be fetched")
        charge(len(self.contents[url]))
        return self.contents[url]


@dataclass
class Api:
    """A server in this process."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    capabilities: ServerCapabilities = field(
        default_factory=lambda: ServerCapabilities(
            model_name="served",
            vocabulary=VOCABULARY,
            special_tokens=frozenset(SPECIAL),
            max_length=4096,
            max_images=4,
            created=1,
        )
    )
    fetcher: Any = field(default_factory=FakeFetcher)

    def app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(openai_router(self.engine, self.capabilities, self.fetcher))
        add_schema_route(app, BODIES)
        add_error_handlers(app)

        @app.middleware("http")
        async def name_request(
            request: Any, call_next: Callable[[Any], Awaitable[Any]]
        ) -> Any:
            request.state.request_id = "id"
            return await call_next(request)

        return app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app())
            async with httpx.AsyncClient(
                transport=transport, base_url="http://server"
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, content=content)

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "messages": [USER], **fields}
        return self.post("/v1/chat/completions", body)

    def complete(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "prompt": "Hi", **fields}
        return self.post("/v1/completions", body)


def chunks_of(response: httpx.Response) -> list[Any]:
    """The chunks of a stream, which must be a whole one."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def error_of(response: httpx.Response, status: int = 400) -> Any:
    """The error of a response, which must be in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["message"]
    return error


@pytest.fixture
def api() -> Api:
    return Api()
