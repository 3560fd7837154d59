"""A browser, and a server whose page it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from .page_server import PageServer

# Without Playwright these tests are skipped, and this file must be importable.
if TYPE_CHECKING:
    from .browser import Browser, Page
    from .watched_page import OpenPage


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    from .browser import SECONDS, expect, launch, sync_playwright

    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright, launch(playwright) as started:
        yield started


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages; what they must not do fails the test that shows them."""
    from .browser import SECONDS
    from .watched_page import watch

    with ExitStack() as stack:
        found: list[list[str]] = []

        def open_(url: str, **options: Any) -> Page:
            options.setdefault("viewport", {"width": 1200, "height": 800})
            page = stack.enter_context(browser.new_context(**options)).new_page()
            page.set_default_timeout(SECONDS * 1000)
            found.append(watch(page))
            page.goto(url)
            return page

        yield open_
    assert all(not each for each in found), found


@pytest.fixture
def start_server() -> Iterator[Callable[..., PageServer]]:
    """Starts servers with options of :class:`~mllama.server.options.ServerOptions`."""
    with ExitStack() as stack:

        def start(**options: Any) -> PageServer:
            server = PageServer(**options)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="package")
def shared_server() -> Iterator[PageServer]:
    server = PageServer(attention=True)
    yield server
    server.stop()


@pytest.fixture
def page_server(shared_server: PageServer) -> PageServer:
    """A server with all that the page can use."""
    shared_server.reset()
    return shared_server


@pytest.fixture
def page(open_page: OpenPage, page_server: PageServer) -> Page:
    """The server's page."""
    return open_page(page_server.url)


@pytest.fixture(scope="session")
def large_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG file of over 20 MB, of noise, which can't be compressed."""
    path = tmp_path_factory.mktemp("pictures") / "photo.jpg"
    noise = np.random.default_rng(1).integers(0, 256, (2100, 2800, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG", quality=100, subsampling=0)
    return path
