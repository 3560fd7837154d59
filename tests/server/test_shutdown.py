"""A server that ends takes nothing new, and finishes what runs."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from mllama.max_compat.server import Settings
from mllama.server.http_server import HttpServer, uvicorn_config
from mllama.server.options import ServerOptions
from mllama.server.routes import error_form
from mllama.server.scheduling.request_queue import RequestQueue
from mllama.server.shutdown import Shutdown
from tests.server.dialects.in_process import InProcessServer

CHAT = [{"role": "user", "content": "Hi"}]
ANSWER = "Z"
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": CHAT},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": CHAT, "max_tokens": 9},
    "/api/chat": {"messages": CHAT},
    "/api/generate": {"prompt": "Hi"},
}
PATHS = pytest.mark.parametrize("path", REQUESTS)


def message(response: httpx.Response) -> Any:
    """What a response says in its API's form."""
    error = response.json()["error"]
    return error if isinstance(error, str) else error["message"]


class Setup(InProcessServer):
    """A server whose answers go on for ever, until a test ends them."""

    def start(self, slots: int = 64) -> None:
        self.queue = RequestQueue(slots, limit=10, prepared_ahead=2)
        self.go_on = asyncio.Event()
        self.engine.wait = self.go_on.wait
        # One token, so that no stream has a part of it.
        self.engine.texts = (ANSWER,)
        transport = httpx.ASGITransport(app=self.app())
        self.client = httpx.AsyncClient(transport=transport, base_url="http://server")

    def ask(self, path: str, **fields: Any) -> asyncio.Task[httpx.Response]:
        body = {"model": "served", "stream": False, **REQUESTS[path], **fields}
        return asyncio.ensure_future(self.client.post(path, json=body))


def run(test: Callable[[Setup], Awaitable[None]]) -> None:
    async def main() -> None:
        setup = Setup()
        await test(setup)
        assert setup.engine.running == 0
        assert (setup.queue.waiting, setup.queue.running) == (0, 0)
        assert setup.shutdown.in_progress == 0

    asyncio.run(asyncio.wait_for(main(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@PATHS
def test_what_comes_too_late_is_told_to_come_again(path: str) -> None:
    async def test(setup: Setup) -> None:
        setup.start()
        setup.shutdown.begin()
        response = await setup.ask(path)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.headers["connection"] == "close"
        assert "shutting down" in message(response)
        assert not setup.engine.requests

    run(test)


def test_probes_say_that_the_server_is_not_ready_and_lives() -> None:
    async def test(setup: Setup) -> None:
        setup.start()
        for path in ("/health", "/health/ready", "/ping", "/v1/models"):
            before = (await setup.client.get(path)).status_code
            setup.shutdown._is_draining = True
            assert (await setup.client.get(path)).status_code == 503 != before
            setup.shutdown._is_draining = False
        for path in ("/health/live", "/metrics"):
            before = (await setup.client.get(path)).status_code
            setup.shutdown._is_draining = True
            assert (await setup.client.get(path)).status_code == before
            setup.shutdown._is_draining = False

    run(test)


@PATHS
@pytest.mark.parametrize("stream", [True, False])
def test_what_runs_is_finished(path: str, stream: bool) -> None:
    async def test(setup: Setup) -> None:
        setup.start()
        setup.shutdown.timeout = 10
        asked = setup.ask(path, stream=stream)
        await until(lambda: setup.queue.running == 1)
        drained = asyncio.ensure_future(setup.shutdown.drain())
        await asyncio.sleep(0.01)
        assert not drained.done()
        setup.go_on.set()
        response = await asked
        assert response.status_code == 200
        assert ANSWER in texts(response), response.text
        await drained

    run(test)


def texts(response: httpx.Response) -> list[str]:
    """All strings of a response, whole or in parts."""
    found = []

    def visit(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        for each in value.values() if isinstance(value, dict) else ():
            visit(each)
        for each in value if isinstance(value, list) else ():
            visit(each)

    for line in response.text.splitlines():
        data = line.removeprefix("data: ")
        if data.startswith(("{", "[{")):
            visit(json.loads(data))
    return found


@PATHS
@pytest.mark.parametrize("stream", [True, False])
def test_the_rest_ends_with_an_error_in_its_form(path: str, stream: bool) -> None:
    async def test(setup: Setup) -> None:
        setup.start()
        asked = setup.ask(path, stream=stream)
        await until(lambda: setup.queue.running == 1)
        await setup.shutdown.drain()
        response = await asked
        reason = "has shut down before the answer was complete"
        if stream:
            assert response.status_code == 200
            *_, last = (line for line in response.text.splitlines() if line)
            assert reason in last
        else:
            assert response.status_code == 503
            assert reason in message(response)
            assert response.headers["connection"] == "close"

    run(test)


def test_what_waits_is_refused_at_once() -> None:
    async def test(setup: Setup) -> None:
        setup.start(slots=1)
        setup.shutdown.timeout = 10
        path = "/v1/chat/completions"
        running = setup.ask(path)
        await until(lambda: setup.queue.running == 1)
        waiting = [setup.ask(path, stream=stream) for stream in (True, False) * 3]
        await until(lambda: setup.queue.waiting == 6)
        drained = asyncio.ensure_future(setup.shutdown.drain())
        for response in await asyncio.gather(*waiting):
            assert response.status_code == 503
            assert response.headers["retry-after"]
        assert not running.done()
        setup.go_on.set()
        assert (await running).status_code == 200
        await drained

    run(test)


def test_parts_of_a_request_that_runs_are_finished_too() -> None:
    async def test(setup: Setup) -> None:
        setup.start(slots=1)
        setup.shutdown.timeout = 10
        asked = setup.ask("/v1/completions", prompt=["Hi", "Ho", "Ha"])
        await until(lambda: setup.queue.running == 1)
        drained = asyncio.ensure_future(setup.shutdown.drain())
        await asyncio.sleep(0.01)
        setup.go_on.set()
        assert len((await asked).json()["choices"]) == 3
        await drained

    run(test)


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_drains_and_a_second_one_ends_at_once(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup()
    before = signal.signal(signal.SIGTERM, lambda *_: raised.append(True))
    raised: list[bool] = []

    async def main() -> None:
        setup.start()
        setup.shutdown.timeout = 10
        options = ServerOptions(host="127.0.0.1", port=0)
        with options.bound() as bound:
            server = HttpServer(
                uvicorn_config(setup.app(), Settings(), form_of=error_form, tls=None),
                setup.shutdown,
            )
            served = asyncio.ensure_future(server.serve(list(bound.requests)))
            await until(lambda: server.started)
            url = f"http://127.0.0.1:{bound.requests[0].getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                body = {"model": "served", "messages": CHAT}
                path = "/v1/chat/completions"
                asked = asyncio.ensure_future(client.post(path, json=body))
                await until(lambda: setup.queue.running == 1)
                for _ in range(count):
                    signal.raise_signal(signal.SIGTERM)
                    await asyncio.sleep(0.05)
                late = client.get("/v1/models")
                if count == 1:
                    assert (await late).status_code == 503
                    assert not served.done()
                    setup.go_on.set()
                    assert (await asked).status_code == 200
                else:
                    late.close()
                    await served
                    asked.cancel()
                await served

    try:
        with caplog.at_level("INFO", "mllama"):
            asyncio.run(asyncio.wait_for(main(), 20))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "SIGTERM: no new requests; 1 in progress have 10 s" in caplog.text
    # uvicorn raises again what should end the process with the signal's exit code.
    assert bool(raised) is (count == 2)


def test_an_idle_server_ends_at_once() -> None:
    async def main() -> None:
        await asyncio.wait_for(Shutdown(1000).drain(), 5)

    asyncio.run(main())
