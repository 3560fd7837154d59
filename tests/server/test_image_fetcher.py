"""The server gets images from everywhere it may, and from nowhere else."""

from __future__ import annotations

import asyncio
import base64
import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from max.serve.config import Settings

from mllama.errors import EngineUnavailableError, ImageError
from mllama.server.clients import ClientId, working_for
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.request_images import ImageReference, load_images
from tests.utils.threads import no_threads

CONTENT = bytes(range(256)) * 300
DATA_URL = "data:image/png;base64," + base64.b64encode(CONTENT).decode()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "image.png").write_bytes(CONTENT)
    handler = partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class Unprepared:
    """An engine that leaves images as they are."""

    def prepare_image(self, image: bytes) -> Future[bytes]:
        future: Future[bytes] = Future()
        future.set_result(image)
        return future


def fetch(*urls: str, **settings: Any) -> list[bytes]:
    values = {f"MAX_SERVE_{name}": value for name, value in settings.items()}
    server = Settings(**values)
    loaded: Any = load_images(
        [ImageReference("messages", url) for url in urls],
        {},
        fetcher=ImageFetcher(server),
        engine=Unprepared(),  # type: ignore[arg-type]
        max_bytes=server.max_media_bytes,
    )
    return asyncio.run(loaded)


def refusal(*urls: str, **settings: Any) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(*urls, **settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_images_come_from_everywhere_in_order(site: int, tmp_path: Path) -> None:
    found = fetch(
        DATA_URL,
        f"http://localhost:{site}/image.png",
        (tmp_path / "image.png").as_uri(),
        "data:,abc",
        MEDIA_URL_ALLOWED_HOSTS=["localhost"],
        ALLOWED_IMAGE_ROOTS=[str(tmp_path)],
    )
    assert found == [CONTENT, CONTENT, CONTENT, b"abc"]


@pytest.mark.parametrize("url", [DATA_URL, "AAAA", "http://localhost/image.png"])
def test_a_system_without_threads_is_unavailable(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with no_threads(monkeypatch), pytest.raises(EngineUnavailableError):
            await load_images(
                [ImageReference("messages[0]", url)],
                {},
                fetcher=ImageFetcher(Settings()),
                engine=Unprepared(),  # type: ignore[arg-type]
            )

    asyncio.run(main())


def test_names_that_nobody_answers_hold_up_no_other_client(
    site: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_answered, look_up = threading.Event(), socket.getaddrinfo

    def silent(host: Any, *more: Any, **named: Any) -> Any:
        if str(host).endswith(".hole"):
            is_answered.wait(30)
            raise socket.gaierror("no answer")
        return look_up(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    fetcher = ImageFetcher(Settings(MAX_SERVE_MEDIA_URL_ALLOWED_HOSTS=["localhost"]))

    async def ask(client: str, url: str) -> bytes:
        with working_for(ClientId(address=client)):
            return await fetcher.fetch(url, lambda size: None)

    async def main() -> None:
        slow = [
            asyncio.ensure_future(ask("1.1.1.1", f"http://{number}.hole/a.png"))
            for number in range(80)
        ]
        await asyncio.sleep(0.1)
        image = ask("2.2.2.2", f"http://localhost:{site}/image.png")
        assert await asyncio.wait_for(image, 20) == CONTENT
        # A client that gives up frees its threads only when they end.
        slow.pop().cancel()
        is_answered.set()
        for each in slow:
            with pytest.raises(ImageError, match="is not found"):
                await asyncio.wait_for(each, 20)

    try:
        asyncio.run(main())
    finally:
        is_answered.set()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/x.png", "'127.0.0.1' is inside the network"),
        ("http://localhost:9/x.png", "'localhost' is inside the network"),
        ("http://[::1]:9/x.png", "'::1' is inside the network"),
        ("http://[::ffff:10.0.0.1]/x.png", "is inside the network"),
        ("http://169.254.169.254/latest", "is inside the network"),
        ("http://0x7f000001:9/x.png", "is inside the network"),
        ("http://nosuch.invalid/x.png", "'nosuch.invalid' is not found"),
        ("http://:80/", "no host"),
        ("ftp://host/x.png", "not a data:, http: or https: URL"),
        ("image.png", "not a data:, http: or https: URL"),
        ("file:///etc/passwd", "MAX_SERVE_ALLOWED_IMAGE_ROOTS, which are none"),
        ("data:;base64,#", "base64"),
    ],
)
def test_the_image_and_the_reason_are_named(url: str, reason: str) -> None:
    message = refusal(DATA_URL, url)
    assert message.startswith("image 2: ")
    assert reason in message


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("{outside}", "it is outside of the directories in MAX_SERVE_ALLOWED"),
        ("{inside}/link", "it is outside of the directories in MAX_SERVE_ALLOWED"),
        ("{inside}/missing", "there is no such file"),
        ("{inside}", "it is a directory"),
        ("{inside}/large", "it is larger than 10 bytes (MAX_SERVE_MAX_LOCAL_IMAGE"),
        ("other.host/x.png", "it names another host"),
        ("{inside}/%00", "no file that the server can read"),
    ],
)
def test_files_that_cant_be_read_say_why_and_no_more(
    tmp_path: Path, path: str, reason: str
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_bytes(CONTENT)
    (inside / "link").symlink_to(outside)
    (inside / "large").write_bytes(b"x" * 11)
    url = "file://" + path.format(inside=inside, outside=outside)
    message = refusal(url, ALLOWED_IMAGE_ROOTS=[str(inside)], MAX_LOCAL_IMAGE_BYTES=10)
    assert reason in message
    assert message.startswith("image 1: file:")
    assert path == "{outside}" or str(outside) not in message


def test_a_redirect_into_the_network_is_refused(
    site: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redirect(self: Quiet) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.1:{site}/image.png")
        self.end_headers()

    monkeypatch.setattr(Quiet, "do_GET", redirect)
    url = f"http://localhost:{site}/elsewhere"
    message = refusal(url, MEDIA_URL_ALLOWED_HOSTS=["localhost"])
    assert "'127.0.0.1' is inside the network" in message


def test_addresses_are_allowed_by_network_and_the_guard_can_be_off(site: int) -> None:
    url = f"http://127.0.0.1:{site}/image.png"
    assert fetch(url, MEDIA_URL_ALLOWED_HOSTS=["127.0.0.0/8"]) == [CONTENT]
    assert fetch(url, MEDIA_URL_SSRF_PROTECTION_ENABLED=False) == [CONTENT]


def test_a_name_is_resolved_once(site: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[str] = []
    original = socket.getaddrinfo

    def spy(host: Any, *args: Any, **options: Any) -> Any:
        resolved.append(host)
        return original(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", spy)
    url = f"http://localhost:{site}/image.png"
    assert fetch(url, MEDIA_URL_ALLOWED_HOSTS=["localhost"]) == [CONTENT]
    assert resolved.count("localhost") == 1


def test_a_proxy_gets_only_hosts_outside_the_network(
    site: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{site}")
    assert "is inside the network" in refusal("http://10.0.0.1/image.png")
    url = "http://nosuch.invalid/image.png"
    assert "MAX_SERVE_MEDIA_URL_ALLOWED_HOSTS" in refusal(url)
    # The proxy answers that it has no such file, so it was asked.
    message = refusal(url, MEDIA_URL_ALLOWED_HOSTS=["nosuch.invalid"])
    assert "status 404" in message


def test_all_images_of_a_request_share_a_limit(site: int, tmp_path: Path) -> None:
    url = f"http://localhost:{site}/image.png"
    options = {"MEDIA_URL_ALLOWED_HOSTS": ["localhost"]}
    for urls in ((DATA_URL, DATA_URL), (url, url), (DATA_URL, url)):
        assert fetch(*urls, MAX_MEDIA_BYTES=2 * len(CONTENT), **options)
        message = refusal(*urls, MAX_MEDIA_BYTES=2 * len(CONTENT) - 1, **options)
        assert "MAX_SERVE_MAX_MEDIA_BYTES" in message
