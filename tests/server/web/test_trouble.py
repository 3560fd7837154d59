"""What the page does when something is wrong, in a real browser."""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from mllama.errors import EngineOverloadedError, PromptTooLongError

from .conftest import watch
from .page_server import PageServer
from .pictures import drop, payload, photo
from .test_chat import answers, ask, complete


def test_a_server_that_restarts_in_mid_answer(page: Page, server: PageServer) -> None:
    server.engine.texts = ["word " * 1000]
    server.pause = 0.01
    ask(page, "Go on")
    expect(answers(page)).to_contain_text("word word")
    server.stop()
    expect(page.get_by_role("alert")).to_contain_text("connection to the server broke")
    expect(page.locator(".assistant > .state")).to_have_text(
        "The answer broke off here."
    )
    expect(page.get_by_role("status")).to_contain_text("Waiting for the model")
    server.engine.texts, server.pause = ["Again"], 0
    server.start()
    expect(page.get_by_role("status")).to_contain_text("The model is ready")
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text("Again")
    complete(page)


def test_a_wrong_key_asks_for_another(browser: Browser) -> None:
    server = PageServer(api_keys=["right"])
    server.start()
    with browser.new_context() as context:
        page = context.new_page()
        violations = watch(page)
        page.goto(server.url)
        expect(page.get_by_role("dialog")).to_contain_text("This server needs a key")
        page.get_by_role("textbox", name="API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("The key is wrong")
        page.get_by_role("textbox", name="API key").fill("right")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="served")).to_be_visible()
        ask(page, "Hello?")
        complete(page)
        page.reload()
        expect(page.get_by_role("heading", name="served")).to_be_visible()
        assert violations == []
    server.stop()


def test_a_large_photo_is_made_smaller(page: Page, server: PageServer) -> None:
    file = photo(2700)
    assert len(file["buffer"]) > 20_000_000
    page.locator("#files").set_input_files(file)
    expect(page.get_by_alt_text("photo.bmp")).to_be_visible()
    ask(page, "What is it?")
    complete(page)
    (sent,) = server.engine.images
    assert Image.open(io.BytesIO(sent)).size == (2240, 2240)


def test_a_text_file_is_refused(page: Page) -> None:
    drop(page, {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    expect(page.get_by_role("alert")).to_contain_text("“a.txt” is not a picture")
    drop(page, {"name": "b.png", "mimeType": "image/png", "buffer": b"text"})
    expect(page.get_by_role("alert")).to_contain_text("can't open “b.png”")
    expect(page.locator("#attached li")).to_have_count(0)
    drop(page, payload())
    expect(page.get_by_role("alert")).to_be_empty()


def test_errors_are_said_in_plain_words(page: Page, server: PageServer) -> None:
    for error, words in (
        (PromptTooLongError("5000 tokens"), "longer than the model can read"),
        (EngineOverloadedError("full"), "busy with other requests"),
        (RuntimeError("unexpected"), "its log has the reason"),
    ):
        server.engine.error = error
        page.get_by_role("button", name="New chat").click()
        ask(page, "Hello?")
        expect(page.get_by_role("alert")).to_contain_text(words)
        expect(answers(page)).to_have_count(0)
    server.engine.error = None
    page.get_by_role("button", name="Try again").click()
    complete(page)
