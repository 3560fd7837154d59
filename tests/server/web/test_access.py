"""Keyboards, screen readers, narrow windows and proxies, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .browser import Page, expect, missing
from .page_server import PageServer
from .pictures import drop, payload
from .test_chat import answers, ask, complete
from .watched_page import OpenPage

RICH = "# Title\n\nSome `code`, a [link](https://example.org).\n\n" + (
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- one\n- two\n\n```python\nprint(1)\n```\n"
)


try:
    from axe_playwright_python.sync_playwright import Axe
except ImportError:
    missing("axe-playwright-python (pip install -e '.[dev]')")


def findings(page: Page) -> list[Any]:
    violations = Axe().run(page).response["violations"]
    return [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_findings(
    open_page: OpenPage, page_server: PageServer, scheme: str
) -> None:
    page_server.engine.texts = [RICH]
    # axe writes styles of its own into the page.
    page = open_page(page_server.url, color_scheme=scheme, bypass_csp=True)
    assert findings(page) == []
    drop(page, payload())
    ask(page, "What is it?")
    complete(page)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_text("2 of 2")).to_be_visible()
    complete(page)
    drop(page, {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    expect(page.get_by_role("alert")).to_contain_text("a.txt")
    assert findings(page) == []
    for name in ("Settings", "Copy as code"):
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert findings(page) == []
        page.keyboard.press("Escape")


def test_the_keyboard_is_enough(page: Page) -> None:
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("Hello?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Second line")
    page.keyboard.press("Enter")
    complete(page)
    expect(page.locator(".user > .text")).to_have_text("Hello?\nSecond line")
    reached = set()
    for _ in range(25):
        page.keyboard.press("Shift+Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.ariaLabel ?? document.activeElement.textContent"
            )
        )
    assert {
        "Regenerate",
        "Copy",
        "Edit",
        "Settings",
        "Copy as code",
        "Export",
    } <= reached
    assert {"New chat", "Import", "Hello?"} <= reached
    page.get_by_role("button", name="Settings").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Settings")).to_be_focused()


def test_a_narrow_window_shows_everything(
    open_page: OpenPage, page_server: PageServer
) -> None:
    page_server.engine.texts = [RICH + "`" + "long" * 60 + "`"]
    page = open_page(page_server.url, viewport={"width": 320, "height": 600})
    drop(page, payload("wide.png", (1600, 300)))
    ask(page, "What is it? " + "x" * 100)
    complete(page)
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth"
        " && document.querySelector('main').scrollWidth <= innerWidth"
    )
    expect(page.get_by_role("button", name="New chat")).to_be_hidden()
    page.get_by_role("button", name="Chats").click()
    expect(page.get_by_role("button", name="Close the list of chats")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Chats", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(0)


@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize("strips_path", [False, True])
def test_a_proxys_path_is_kept(
    open_page: OpenPage,
    start_server: Callable[..., PageServer],
    strips_path: bool,
    slash: str,
) -> None:
    server = start_server(strips_path=strips_path, root_path="/llama", api_keys=["key"])
    page = open_page(server.url.rstrip("/") + slash)
    page.get_by_role("textbox", name="API key").fill("key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="served")).to_be_visible()
    ask(page, "Hello?")
    complete(page)
