"""The HTTP server over TLS and on a Unix socket."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import trustme
from fastapi import FastAPI

from mllama.errors import MllamaError
from mllama.max_compat.server import Settings
from mllama.server.http_server import HttpServer, TlsFiles, uvicorn_config
from mllama.server.options import ServerOptions
from mllama.server.routes import error_form
from mllama.server.shutdown import Shutdown


def served(
    options: ServerOptions, ask: Callable[[int], Awaitable[httpx.Response]]
) -> httpx.Response:
    """The answer of a server with these options to one request."""
    app = FastAPI()
    app.add_api_route("/where", lambda: "here")
    config = uvicorn_config(
        app,
        Settings(),
        form_of=error_form,
        root_path=options.root_path,
        tls=options.tls,
        uds=options.uds,
    )
    server = HttpServer(config, Shutdown(0))

    async def run() -> httpx.Response:
        with options.bound() as bound:
            running = asyncio.ensure_future(server.serve(list(bound.requests)))
            while not server.started:
                await asyncio.sleep(0.01)
            name = bound.requests[0].getsockname()
            try:
                return await ask(0 if isinstance(name, str) else name[1])
            finally:
                server.should_exit = True
                await running

    return asyncio.run(asyncio.wait_for(run(), 30))


def test_a_certificate_makes_it_https(
    tls: TlsFiles, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def ask(port: int) -> httpx.Response:
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            return await client.get(f"https://127.0.0.1:{port}/where")

    with caplog.at_level(logging.INFO, "mllama"):
        answer = served(ServerOptions(host="127.0.0.1", port=0, tls=tls), ask)
    assert answer.json() == "here"
    assert "listening on https://127.0.0.1:" in caplog.text


def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def ask(port: int) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.get("http://localhost/where")

    answer = served(ServerOptions(host="127.0.0.1", port=0, uds=path), ask)
    assert answer.json() == "here"
    assert not Path(path).exists()


@pytest.mark.parametrize("root_path", ["/llama", "/llama/"])
@pytest.mark.parametrize("path", ["/llama/where", "/where"])
def test_a_proxy_passes_the_root_path_on_or_takes_it_off(
    root_path: str, path: str
) -> None:
    async def ask(port: int) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{port}{path}")

    options = ServerOptions(host="127.0.0.1", port=0, root_path=root_path)
    assert served(options, ask).json() == "here"


def test_a_certificate_that_can_not_be_used_is_one_line(
    tls: TlsFiles, authority: trustme.CA, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    authority.issue_cert("localhost").private_key_pem.write_to_path(other)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for certificate, key in (
        (str(text), None),
        (str(tmp_path / "missing.pem"), None),
        (tls.certificate, str(other)),
    ):
        with pytest.raises(MllamaError, match="can't be used") as caught:
            TlsFiles(certificate=certificate, key=key)
        assert "\n" not in str(caught.value)


def test_a_password_is_never_asked_for(authority: trustme.CA, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    issued = authority.issue_cert("localhost")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    private = load_pem_private_key(issued.private_key_pem.bytes(), None)
    key.write_bytes(
        private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    TlsFiles(certificate=str(certificate), key=str(key), password="secret")
    for password in (None, "wrong"):
        with pytest.raises(MllamaError, match="can't be used"):
            TlsFiles(certificate=str(certificate), key=str(key), password=password)
