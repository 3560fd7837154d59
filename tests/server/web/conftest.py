"""A browser, and a server whose page it shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .browser import chromium
from .page_server import PageServer

SECONDS = 15


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = chromium()
    expect.set_options(timeout=SECONDS * 1000)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        ) as started,
    ):
        yield started


@pytest.fixture
def server() -> Iterator[PageServer]:
    started = PageServer()
    started.start()
    yield started
    started.stop()


@pytest.fixture
def page(browser: Browser, server: PageServer) -> Iterator[Page]:
    """The server's page; what it must not do fails the test that shows it."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    shown = context.new_page()
    shown.set_default_timeout(SECONDS * 1000)
    violations = watch(shown)
    shown.goto(server.url)
    yield shown
    context.close()
    assert violations == []


def watch(page: Page) -> list[str]:
    """Collects errors of scripts, violations of the policy, and foreign requests."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())

    def note(message: str) -> None:
        if "Content Security Policy" in message or "Trusted" in message:
            found.append(message)

    page.on("console", lambda message: note(message.text))

    def check(url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            found.append(url)

    page.on("request", lambda request: check(request.url))
    return found
