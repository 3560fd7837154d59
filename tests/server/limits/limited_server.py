"""A server with quick limits, which slow clients talk to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import uvloop
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mllama.max_compat.server import ClientDisconnected, Settings
from mllama.server.arrival.body import arrived_body
from mllama.server.arrival.connection_pool import ConnectionLimits
from mllama.server.arrival.shared_memory import SharedMemory, SharedMemoryMiddleware
from mllama.server.http_server import HttpServer, TlsFiles, uvicorn_config
from mllama.server.options import ServerOptions
from mllama.server.routes import error_form

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"

QUICK = ConnectionLimits(
    connections=20,
    head_seconds=1,
    body_pause=1.5,
    body_grace=3,
    body_rate=1000,
    awaited_grace=1,
    awaited_rate=100_000,
    write_seconds=1,
)


def named_client(scope: Any) -> str:
    return Headers(scope=scope).get("x-client", "")


class Application:
    """What slow clients talk to.

    Attributes:
        ended: How requests with a body or a stream ended.
        sent: Bytes of streams that were sent.
        server: The server, once it runs.
    """

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.sent = 0
        self.server: HttpServer | None = None
        self.app = FastAPI()
        self.memory = SharedMemory(bodies=8 << 20)
        self.app.add_middleware(
            SharedMemoryMiddleware, memory=self.memory, client_of=named_client
        )
        self.app.add_api_route("/health", self.health)
        self.app.add_api_route("/read", self.read, methods=["POST"])
        self.app.add_api_route("/api/read", self.read, methods=["POST"])
        self.app.add_api_route("/stream", self.stream)

    @property
    def connections(self) -> int:
        """The connections that the server counts."""
        assert self.server is not None
        return len(self.server.server_state.connections)

    async def health(self) -> str:
        return "up"

    async def read(self, request: Request) -> Response:
        try:
            return Response(str(len(await arrived_body(request))))
        except ClientDisconnected:
            self.ended.append("disconnected")
            return Response(status_code=499)

    async def stream(self) -> Response:
        async def parts() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    yield b"x" * 65536
                    self.sent += 65536
                    await asyncio.sleep(0)
            finally:
                self.ended.append("stream")

        return StreamingResponse(parts())


Test = Callable[[int, Application], Awaitable[None]]


def run(
    test: Test, limits: ConnectionLimits = QUICK, tls: TlsFiles | None = None
) -> HttpServer:
    """Runs a test against a server with limits of its own."""
    application = Application()
    config = uvicorn_config(
        application.app, Settings(), form_of=error_form, tls=tls, limits=limits
    )
    server = application.server = HttpServer(config)

    async def serve() -> None:
        with ServerOptions(host="127.0.0.1", port=0).bound() as bound:
            running = asyncio.ensure_future(server.serve(list(bound.requests)))
            while not server.started:
                await asyncio.sleep(0.01)
            try:
                await test(bound.requests[0].getsockname()[1], application)
            finally:
                server.should_exit = server.force_exit = True
                await running

    # As the server does.
    uvloop.run(asyncio.wait_for(serve(), 60))
    return server


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for a condition, which a busy machine may take longer to reach."""

    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), seconds)
