"""A server with batches in this process, driven by OpenAI's SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from mllama.server.access.keys import KeyRing
from mllama.server.access.middleware import AccessMiddleware
from mllama.server.access.policy import AccessPolicy
from mllama.server.arrival.shared_memory import SharedMemoryMiddleware
from mllama.server.batches.options import BatchOptions
from mllama.server.batches.service import BatchService
from mllama.server.batches.spare_slots import QueueState
from mllama.server.batches.stores import BatchStores
from mllama.server.errors import add_error_handlers
from mllama.server.routes import add_routes, error_form
from mllama.server.scheduling.options import OverloadOptions
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import RequestQueue, new_queue
from tests.server.dialects.fake_engine import FakeEngine
from tests.server.dialects.in_process import InProcessServer

# The extra `batch`, which the tests of a server without it don't need.
pytest.importorskip("python_multipart")

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


class BatchServer:
    """A server with batches.

    Attributes:
        client: OpenAI's SDK, with the key ``a`` if keys are needed.
    """

    def __init__(
        self, app: FastAPI, stores: BatchStores, service: BatchService
    ) -> None:
        self.app = app
        self.stores = stores
        self.service = service
        self.client = self.client_of("a")

    def client_of(self, key: str) -> openai.AsyncOpenAI:
        transport = httpx.ASGITransport(app=self.app)
        return openai.AsyncOpenAI(
            base_url="http://server/v1",
            api_key=key,
            max_retries=0,
            http_client=httpx.AsyncClient(transport=transport),
        )

    async def upload(self, content: bytes, **options: Any) -> Any:
        return await self.client.files.create(
            file=("in.jsonl", content), purpose="batch", **options
        )

    async def start(self, content: bytes, endpoint: Any = CHAT, **fields: Any) -> Any:
        file = await self.upload(content)
        return await self.client.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,
            completion_window="24h",
            **fields,
        )

    async def wait_for_answers(self, batch: Any, count: int) -> None:
        while (
            await self.client.batches.retrieve(batch.id)
        ).request_counts.completed < count:
            await asyncio.sleep(0.01)

    async def ended(self, batch: Any) -> Any:
        async def wait() -> Any:
            while True:
                found = await self.client.batches.retrieve(batch.id)
                if found.status in ENDED:
                    return found
                await asyncio.sleep(0.01)

        return await asyncio.wait_for(wait(), 60)

    async def lines(self, file_id: str | None) -> list[Any]:
        if file_id is None:
            return []
        content = await self.client.files.content(file_id)
        return [json.loads(line) for line in content.text.splitlines()]


@asynccontextmanager
async def batch_server(
    folder: Path,
    engine: FakeEngine | None = None,
    *,
    keys: tuple[str, ...] = (),
    slots: int = 4,
    state_of: Callable[[RequestQueue], QueueState] | None = None,
    **limits: Any,
) -> AsyncIterator[BatchServer]:
    """Yields a server, and ends it as a server ends that is stopped."""
    parts = InProcessServer()
    queue = new_queue(slots, OverloadOptions())
    queued = QueuedEngineClient(engine or parts.engine, queue)
    stores = BatchStores(BatchOptions(directory=folder, **limits))
    state = queue if state_of is None else state_of(queue)
    service = BatchService(
        stores, queued, state, parts.capabilities, parts.fetcher, parts.memory
    )
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, queued, parts.capabilities, parts.fetcher, batches=service)
    add_error_handlers(app, error_form)
    app.add_middleware(SharedMemoryMiddleware, memory=parts.memory)
    app.add_middleware(
        AccessMiddleware, policy=AccessPolicy(keys=KeyRing(keys)), form_of=error_form
    )

    @app.middleware("http")
    async def name_request(request: Any, call_next: Any) -> Any:
        request.state.request_id = "id"
        return await call_next(request)

    try:
        async with service.worker.running():
            yield BatchServer(app, stores, service)
    finally:
        stores.close()


def requests(count: int, url: str = CHAT, **body: Any) -> bytes:
    """Lines of a batch."""
    message = {"role": "user", "content": "Hi"}
    return b"".join(
        json.dumps(
            {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": url,
                "body": {"messages": [message], **body},
            }
        ).encode()
        + b"\n"
        for number in range(1, count + 1)
    )
