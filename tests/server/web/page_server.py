"""The server's application over the fake engine, on a port."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama.max_compat.server import ServingTokenGeneratorSettings, Settings
from mllama.server.capabilities import ServerCapabilities
from mllama.server.options import ServerOptions
from mllama.server.paths import RootPath
from mllama.server.routes import add_routes, new_application
from tests.ports import free_port
from tests.server.dialects.fake_engine import SPECIAL, VOCABULARY, FakeEngine
from tests.server.dialects.in_process import FakeFetcher

SECONDS = 20


def new_app(engine: FakeEngine, **options: Any) -> FastAPI:
    """Returns the application with its access rules and limits."""
    unused: Any = None
    app = new_application(
        Settings(),
        ServingTokenGeneratorSettings(
            model_factory=unused, pipeline_config=unused, tokenizer=unused
        ),
        ServerOptions(host="127.0.0.1", port=8000, **options),
    )
    capabilities = ServerCapabilities(
        model_name="served",
        vocabulary=VOCABULARY,
        special_tokens=frozenset(SPECIAL),
        max_length=4096,
        max_images=4,
        created=1,
        attention=options.get("attention", False),
    )
    fetcher: Any = FakeFetcher()
    add_routes(app, engine, capabilities, fetcher)
    return app


class StrippingProxy:
    """Takes the root path off, as some proxies do."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        assert path.startswith(self._root_path), path
        stripped = path.removeprefix(self._root_path) or "/"
        await self._app({**scope, "path": stripped}, receive, send)


class PageServer:
    """A server in a thread, which can be stopped hard and started again.

    Attributes:
        engine: What answers.
        pause: Seconds before each token.

    Args:
        strips_path: Whether a proxy takes the root path off.
        options: Of ``ServerOptions``.
    """

    def __init__(self, *, strips_path: bool = False, **options: Any) -> None:
        self._strips_path = strips_path
        self.engine = FakeEngine()
        self.engine.wait = self._wait
        self.pause = 0.0
        self.options = options
        self.port = free_port()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def reset(self) -> None:
        """Forgets what was set and asked, when nothing runs any more."""
        self.wait_until_idle()
        vars(self.engine).update(vars(FakeEngine()), wait=self._wait)
        self.pause = 0.0
        if self._thread is None or not self._thread.is_alive():
            self.start()

    def wait_until_idle(self) -> None:
        """Waits until no request runs."""
        end = time.monotonic() + SECONDS
        while self.engine.running:
            assert time.monotonic() < end
            time.sleep(0.01)

    async def _wait(self) -> None:
        await asyncio.sleep(self.pause)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}{self.options.get('root_path', '')}/"

    def start(self) -> None:
        """Starts it, and returns when it listens."""
        root_path = self.options.get("root_path", "")
        app: ASGIApp = RootPath(new_app(self.engine, **self.options), root_path)
        config = uvicorn.Config(
            StrippingProxy(app, root_path) if self._strips_path else app,
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        end = time.monotonic() + SECONDS
        while not self._server.started:
            assert time.monotonic() < end
            time.sleep(0.01)

    def stop(self) -> None:
        """Stops it as a crash does: connections break."""
        if self._server is None or self._thread is None:
            return
        self._server.force_exit = True
        self._server.should_exit = True
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
