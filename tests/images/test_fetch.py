"""Images are downloaded within limits, through the environment's proxies."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.server
import os
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest

from mllama.errors import ImageError
from mllama.images import fetch
from mllama.version import __version__

CONTENT = bytes(range(256)) * 40


class Site(http.server.BaseHTTPRequestHandler):
    """Serves ``CONTENT`` and, with an absolute URL, is a proxy that has it as well."""

    seen: list[tuple[str, dict[str, str]]]
    has_ended: threading.Event
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.seen.append((self.path, dict(self.headers)))
        status, headers, body = 200, {}, CONTENT
        match self.path.partition("?")[0]:
            case "/loop":
                status, headers = 302, {"Location": "/loop"}
            case "/moved":
                status, headers = 301, {"Location": "image.png"}
            case "/elsewhere":
                status, headers = 302, {"Location": self.path.partition("?")[2]}
            case "/gone":
                status = 404
            case "/gzip":
                headers, body = {"Content-Encoding": "gzip"}, gzip.compress(CONTENT)
            case "/brotli":
                headers = {"Content-Encoding": "br"}
            case "/slow":
                self.has_ended.wait(60)
                return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.seen.append((self.path, dict(self.headers)))
        host, _, port = self.path.rpartition(":")
        self.send_response(200)
        self.end_headers()
        with socket.create_connection((host.strip("[]"), int(port))) as there:
            relay(self.connection, there)

    def log_message(self, *_: object) -> None:
        pass


class Socks(socketserver.BaseRequestHandler):
    """A SOCKS 5 proxy without authentication."""

    seen: list[tuple[str, int]]

    def handle(self) -> None:
        file = self.request.makefile("rb")
        file.read(file.read(2)[1])
        self.request.sendall(b"\5\0")
        kind = file.read(4)[3]
        length = 4 if kind == 1 else file.read(1)[0]
        host = file.read(length)
        name = socket.inet_ntoa(host) if kind == 1 else host.decode()
        port = int.from_bytes(file.read(2), "big")
        self.seen.append((name, port))
        with socket.create_connection((name, port)) as there:
            self.request.sendall(b"\5\0\0\1" + bytes(6))
            relay(self.request, there)


def relay(here: socket.socket, there: socket.socket) -> None:
    others = {here: there, there: here}
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select(list(others), [], [])[0]:
                if not (piece := ready.recv(65536)):
                    return
                others[ready].sendall(piece)


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]  # type: ignore[misc]
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the servers have seen, in an environment without proxies."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT_"):
            monkeypatch.delenv(name)
    requests: list[Any] = []
    Site.seen = Socks.seen = requests
    return requests


@pytest.fixture
def site() -> Iterator[str]:
    Site.has_ended = threading.Event()
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)) as port:
        yield f"http://127.0.0.1:{port}"
        Site.has_ended.set()


def refusal(url: str, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        asyncio.run(fetch.fetch_async(url, **options))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_images_are_downloaded_within_limits(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch.fetch(f"{site}/image.png") == CONTENT
    assert fetch.fetch(f"{site}/moved") == CONTENT
    assert fetch.fetch(f"{site}/gzip") == CONTENT
    assert "'br'" in refusal(f"{site}/brotli")
    assert "redirects" in refusal(f"{site}/loop")
    assert "status 404" in refusal(f"{site}/gone")
    monkeypatch.setattr(fetch, "MAX_BYTES", 10)
    assert "larger" in refusal(f"{site}/image.png")


def test_an_error_does_not_hold_what_was_downloaded(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 10)
    with pytest.raises(ImageError) as caught:
        fetch.fetch(f"{site}/image.png")
    held = [
        len(value)
        for entry in caught.traceback
        for value in entry.frame.f_locals.values()
        if isinstance(value, bytearray)
    ]
    assert held == [0]


def test_the_time_limit_is_for_the_whole_download(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "MAX_SECONDS", 0.2)
        assert "took longer than 0.2 s" in refusal(f"{site}/slow")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_MAX_WAIT", 0.1)
        assert "nothing arrived for 0.1 s" in refusal(f"{site}/slow")
    assert time.monotonic() - started < 20


def test_a_loop_that_runs_may_fetch(site: str) -> None:
    async def main() -> bytes:
        return fetch.fetch(f"{site}/image.png")

    assert asyncio.run(main()) == CONTENT


def test_requests_have_a_name_of_our_own(site: str, seen: list[Any]) -> None:
    fetch.fetch(f"{site}/image.png")
    assert seen[0][1]["User-Agent"] == f"mllama/{__version__}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://", "no host"),
        ("http://[::1", "port"),
        ("http://127.0.0.1:99999/", "no port 99999"),
        ("http://a..b/", "can't be fetched"),
        ("http://\u2603.invalid/", "can't be fetched"),
        (f"http://{'a' * 70}.invalid/", "can't be fetched"),
        ("http://127.0.0.1:9/\n", "can't be fetched"),
        ("http://127.0.0.1:9/", "can't be fetched"),
    ],
)
def test_urls_that_can_not_be_fetched_are_refused(url: str, reason: str) -> None:
    assert reason in refusal(url)


def test_a_redirect_leaves_the_web_nowhere(site: str) -> None:
    for target in ("data:,x", "file:///etc/passwd", "ftp://host/", "//", "http://["):
        assert refusal(f"{site}/elsewhere?{target}").startswith(f"{site}/elsewhere")


def test_every_host_is_checked_and_the_checked_address_is_used(
    site: str, seen: list[Any]
) -> None:
    checked = []

    async def guard(host: str, port: int, is_proxied: bool) -> str:
        checked.append((host, port, is_proxied))
        if host == "refused.example":
            raise ImageError(f"{host} is refused")
        return "127.0.0.1"

    port = int(site.rpartition(":")[2])
    url = f"http://name.example:{port}/image.png"
    assert asyncio.run(fetch.fetch_async(url, guard=guard)) == CONTENT
    assert checked == [("name.example", port, False)]
    assert seen[0][1]["Host"] == f"name.example:{port}"
    url = f"http://name.example:{port}/elsewhere?http://refused.example/"
    assert refusal(url, guard=guard) == "refused.example is refused"
    assert checked[-1] == ("refused.example", 80, False)


def test_bytes_are_charged_as_they_arrive(site: str) -> None:
    charged: list[int] = []
    asyncio.run(fetch.fetch_async(f"{site}/image.png", charge=charged.append))
    assert sum(charged) == len(CONTENT)

    def refuse(size: int) -> None:
        raise ImageError("too much")

    assert refusal(f"{site}/image.png", charge=refuse) == "too much"


def test_http_goes_through_the_proxy(
    site: str, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", site)
    checked = []

    async def guard(host: str, port: int, is_proxied: bool) -> None:
        checked.append((host, port, is_proxied))

    url = "http://name.invalid/image.png"
    assert asyncio.run(fetch.fetch_async(url, guard=guard)) == CONTENT
    assert checked == [("name.invalid", 80, True)]
    assert seen[0][0] == url
    monkeypatch.setenv("NO_PROXY", "localhost,[::1],127.0.0.1")
    assert fetch.fetch(f"{site}/image.png") == CONTENT
    assert seen[-1][0] == "/image.png"


def test_a_proxy_that_does_not_answer_is_named(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("socks5://127.0.0.1:1", "http://127.0.0.1:1"):
        monkeypatch.setenv("ALL_PROXY", value)
        assert "through the proxy in ALL_PROXY" in refusal(f"{site}/image.png")
    monkeypatch.setenv("ALL_PROXY", "http://a:b")
    assert "ALL_PROXY is not the URL" in refusal(f"{site}/image.png")


def test_a_socks_proxy_resolves_the_host(
    site: str, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(site.rpartition(":")[2])
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Socks)) as socks:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{socks}")
        assert fetch.fetch(f"http://localhost:{port}/image.png") == CONTENT
    assert seen[0] == ("localhost", port)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[int]:
    """The port of a server with TLS for ``localhost``, whose certificate is a file."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
    command += "-subj /CN=localhost -addext subjectAltName=DNS:localhost -days 2 "
    command += "-keyout key.pem -out certificate.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        yield port


def test_certificates_of_the_environment_are_trusted(
    secure: int, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://localhost:{secure}/image.png"
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert fetch.fetch(url) == CONTENT
    # The certificate is that of the host, even if its address was checked before.

    async def guard(*host: object) -> str:
        return "127.0.0.1"

    assert asyncio.run(fetch.fetch_async(url, guard=guard)) == CONTENT
    url = url.replace("localhost", "other.example")
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(url, guard=guard)
    monkeypatch.setenv("SSL_CERT_FILE", "/nosuch.pem")
    assert "SSL_CERT_FILE names '/nosuch.pem'" in refusal(url)
    # Without TLS, nothing needs them.
    assert fetch.fetch(f"{site}/image.png") == CONTENT


def test_https_goes_through_the_proxy_by_its_host_s_name(
    secure: int,
    site: str,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    monkeypatch.setenv("HTTPS_PROXY", site)
    assert fetch.fetch(f"https://localhost:{secure}/image.png") == CONTENT
    assert seen[0][0] == f"localhost:{secure}"


def test_the_variable_with_the_wrong_certificates_is_named(
    secure: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    message = refusal(f"https://localhost:{secure}/image.png")
    assert "with the certificates in SSL_CERT_FILE" in message
