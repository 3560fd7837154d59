"""What the page does when something is wrong, in a real browser."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mllama.errors import EngineOverloadedError, PromptTooLongError

from .browser import Page, expect, wait_until
from .page_server import PageServer
from .pictures import drop, payload
from .test_chat import answers, ask, begin_long_answer, complete
from .watched_page import OpenPage


def test_a_server_that_restarts_in_mid_answer(
    page: Page, page_server: PageServer
) -> None:
    begin_long_answer(page, page_server)
    expect(answers(page)).to_contain_text("word word")
    page_server.stop()
    expect(page.get_by_role("alert")).to_contain_text("connection to the server broke")
    expect(page.locator(".assistant > .state")).to_have_text(
        "The answer broke off here."
    )
    expect(page.get_by_role("status")).to_contain_text("Waiting for the model")
    page_server.engine.texts, page_server.pause = ["Again"], 0
    page_server.start()
    expect(page.get_by_role("status")).to_contain_text("The model is ready")
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text("Again")
    complete(page)


def test_a_wrong_key_asks_for_another(
    open_page: OpenPage, start_server: Callable[..., PageServer]
) -> None:
    page = open_page(start_server(api_keys=["right"]).url)
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


def test_a_large_photo_is_made_smaller(
    page: Page, page_server: PageServer, large_photo: Path
) -> None:
    assert large_photo.stat().st_size > 20_000_000
    page.locator("#files").set_input_files(large_photo)
    # Decoding it, and encoding it again, take as long as the machine needs.
    expect(page.get_by_alt_text(large_photo.name)).to_be_visible(timeout=120_000)
    ask(page, "What is it?")
    complete(page)
    (sent,) = page_server.engine.images
    assert Image.open(io.BytesIO(sent)).size == (2240, 1680)


def test_a_text_file_is_refused(page: Page) -> None:
    drop(page, {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    expect(page.get_by_role("alert")).to_contain_text("“a.txt” is not a picture")
    drop(page, {"name": "b.png", "mimeType": "image/png", "buffer": b"text"})
    expect(page.get_by_role("alert")).to_contain_text("can't open “b.png”")
    expect(page.locator("#attached li")).to_have_count(0)
    drop(page, payload())
    expect(page.get_by_role("alert")).to_be_empty()


def test_errors_are_said_in_plain_words(page: Page, page_server: PageServer) -> None:
    for error, words in (
        (PromptTooLongError("5000 tokens"), "longer than the model can read"),
        (EngineOverloadedError("full"), "busy with other requests"),
        (RuntimeError("unexpected"), "its log has the reason"),
    ):
        page_server.engine.error = error
        page.get_by_role("button", name="New chat").click()
        ask(page, "Hello?")
        expect(page.get_by_role("alert")).to_contain_text(words)
        expect(answers(page)).to_have_count(0)
    page_server.engine.error = None
    page.get_by_role("button", name="Try again").click()
    complete(page)


def test_a_page_that_is_reloaded_in_mid_answer_keeps_what_it_has(
    page: Page, page_server: PageServer
) -> None:
    begin_long_answer(page, page_server)
    # The page keeps an answer every two seconds.
    wait_until(
        page,
        """async () => {
            const history = await import(new URL("page/history.js", document.baseURI));
            const [{ messages }] = await history.conversations();
            return Object.values(messages).some(each => /word word/.test(each.text));
        }""",
    )
    page.reload()
    expect(answers(page)).to_contain_text("word word")
    expect(page.locator(".assistant > .state")).to_have_text(
        "The answer broke off here."
    )
    page_server.wait_until_idle()
    page_server.engine.texts, page_server.pause = ["Again"], 0
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("Again")
