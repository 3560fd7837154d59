"""The page of metrics, on the server's port and on one of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mllama.errors import MllamaError
from mllama.server.access.hosts import AllowedHosts
from mllama.server.access.keys import KeyRing
from mllama.server.access.policy import AccessPolicy
from mllama.server.listening import bind
from mllama.server.metrics_page import metrics_served, worker_metrics
from mllama.server.observability.shared_stats import SharedStats
from mllama.server.options import ServerOptions
from mllama.server.routes import error_form
from tests.server.dialects.in_process import InProcessServer

POLICY = AccessPolicy(keys=KeyRing(["secret"]), hosts=AllowedHosts(()))


def on_its_own_port(ask: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Asks a page that has a port of its own."""

    async def main() -> None:
        sockets = bind("127.0.0.1", 0, "--metrics-port")
        port = sockets[0].getsockname()[1]
        # The server begins to listen a moment later.
        transport = httpx.AsyncHTTPTransport(retries=5)
        base_url = f"http://127.0.0.1:{port}"
        async with (
            metrics_served(sockets, POLICY, error_form),
            httpx.AsyncClient(base_url=base_url, transport=transport) as client,
        ):
            await ask(client)
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient() as client:
                await client.get(f"http://127.0.0.1:{port}/metrics")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_port_of_its_own_has_the_page_and_nothing_else() -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        page = await client.get("/metrics")
        assert page.status_code == 200
        assert "mllama_num_requests_running" in page.text
        for path in ("/", "/v1/models", "/health", "/openapi.json", "/docs"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/metrics")).status_code == 405

    on_its_own_port(ask)


def test_no_page_of_the_web_reads_it() -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        for headers in ({"Host": "evil.com"}, {"Origin": "https://evil.com"}):
            assert (await client.get("/metrics", headers=headers)).status_code == 403

    on_its_own_port(ask)


def test_quiet_connections_keep_no_scraper_out() -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics")).status_code == 200
        host, port = client.base_url.host, client.base_url.port
        quiet = [await asyncio.open_connection(host, port) for _ in range(100)]
        assert (await client.get("/metrics")).status_code == 200
        # The first ones were closed for the later ones.
        with suppress(ConnectionError):
            assert await asyncio.wait_for(quiet[0][0].read(), 10) == b""
        for _, writer in quiet:
            writer.close()

    on_its_own_port(ask)


def test_a_client_that_reads_nothing_does_not_hold_up_the_end() -> None:
    async def main() -> float:
        sockets = bind("127.0.0.1", 0, "--metrics-port")
        address = sockets[0].getsockname()
        async with metrics_served(sockets, POLICY, error_form):
            # It listens a moment later.
            while True:
                await asyncio.sleep(0.05)
                with suppress(ConnectionRefusedError):
                    client = socket.create_connection(address)
                    break
            client.setblocking(False)
            asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
            # Until nothing more is read, since nobody reads the answers.
            for _ in range(40):
                with suppress(BlockingIOError):
                    client.send(asked * 200)
                await asyncio.sleep(0.05)
            started = time.monotonic()
        taken = time.monotonic() - started
        client.close()
        return taken

    assert asyncio.run(asyncio.wait_for(main(), 60)) < 30


def test_the_page_has_the_format_that_is_asked_for() -> None:
    api = InProcessServer()
    with SharedStats.temporary() as stats, worker_metrics(stats):
        plain = api.request("GET", "/metrics")
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        openmetrics = api.request("GET", "/metrics", headers=accept)
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics")
    assert openmetrics.text.endswith("# EOF\n")
    families = list(text_string_to_metric_families(plain.text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    assert {"mllama_worker_up", "mllama_build_info", "process_cpu_seconds"} <= {*names}
    # After the block, they are gone, and can come back.
    assert "mllama_worker_up" not in api.request("GET", "/metrics").text


def test_a_port_that_is_taken_is_named_by_its_option() -> None:
    taken = bind("127.0.0.1", 0)
    port = taken[0].getsockname()[1]
    taken[0].listen()
    options = ServerOptions(host="127.0.0.1", port=0, metrics_port=port)
    with (
        pytest.raises(MllamaError, match="choose another --metrics-port"),
        options.bound(),
    ):
        pass
    taken[0].close()


def test_without_the_option_there_is_no_second_port() -> None:
    with ServerOptions(host="127.0.0.1", port=0).bound() as bound:
        assert not bound.metrics
