"""Words that light up the picture, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import AttentionMaps, ImageMaps
from mllama.requests.attention_words import AttentionToken, AttentionWord
from mllama.requests.events import AnswerAttention

from .browser import COUNT, Page, expect, wait_until
from .heat import heat_maximum
from .page_server import PageServer
from .pictures import drop, payload
from .test_chat import answers, ask, complete
from .watched_page import OpenPage

WORDS = ("A", "red", "square", "or", "absent", "square")
PLACES = {"red": (1, 1), "square": (3, 2)}
"""The row and column where a word looks, of a grid of four by four."""

TEXT = "A **red** square for fun, or\n\n- a `square`; absently."


def attention(images: int = 1, error: str | None = None) -> AnswerAttention:
    """Maps of words that all look at the last image."""
    if error is not None:
        return AnswerAttention(0, error=error)
    grid = PatchGrid(1, 1, 4, 4, 4, 320, 240, 320.0, 240.0)
    tokens = [
        AttentionToken(number, word, False, False) for number, word in enumerate(WORDS)
    ]
    words = [
        AttentionWord(word, number, number + 1, False, number)
        for number, word in enumerate(WORDS)
    ]
    maps = np.zeros((images, len(WORDS), 4, 4), np.float32)
    for number, word in enumerate(WORDS):
        if word in PLACES:
            maps[-1, number, 0, 0] = 0.1
            maps[(-1, number, *PLACES[word])] = 0.6
    none = np.zeros(len(WORDS), np.float32)
    found = [ImageMaps(grid, each, none, none) for each in maps]
    return AnswerAttention(0, tokens, words, AttentionMaps(0, found, [(3, 2)]))


@pytest.fixture(autouse=True)
def attending(page_server: PageServer) -> None:
    page_server.engine.texts = [TEXT]
    page_server.engine.attention = [attention()]


def lit(page: Page) -> None:
    """Asks about a picture and waits until words light up."""
    drop(page, payload())
    ask(page, "What is it?")
    complete(page)
    expect(answers(page).locator(".word").first).to_be_visible()


def word(page: Page, text: str) -> None:
    page.locator(".word", has_text=text).first.hover()


def test_a_hovered_word_lights_up_where_it_looked(page: Page) -> None:
    lit(page)
    expect(answers(page)).to_contain_text("A red square for fun, or")
    # One that the answer has only as a part of another word is left out.
    assert answers(page).locator(".word").all_inner_texts() == [
        *("A", "red", "square", "or"),
        "square",
    ]
    for text in ("red", "square"):
        word(page, text)
        row, column = PLACES[text]
        x, y = heat_maximum(page.locator("#thread figure.lit"))
        assert (int(4 * y), int(4 * x)) == (row, column)
    word(page, "or")
    expect(page.locator("figure canvas")).to_have_count(0)
    word(page, "red")
    page.get_by_label("Your question").hover()
    expect(page.locator("figure canvas")).to_have_count(0)


def test_a_tapped_word_stays_lit(open_page: OpenPage, page_server: PageServer) -> None:
    page = open_page(page_server.url, has_touch=True)
    lit(page)
    page.locator(".word", has_text="red").tap()
    expect(page.locator("#thread figure.lit")).to_have_count(1)
    expect(page.get_by_role("status")).to_have_text(
        "“red” looked at the center of scene.png."
    )
    page.locator(".word", has_text="red").tap()
    expect(page.locator("figure.lit")).to_have_count(0)


def test_the_arrow_keys_go_from_word_to_word(page: Page) -> None:
    lit(page)
    page.get_by_role("group", name="Answer").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("status")).to_have_text("“A” looked at no picture.")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".word.current")).to_have_text("red")
    expect(page.locator("#thread figure.lit")).to_have_count(1)
    page.keyboard.press("End")
    expect(page.get_by_role("status")).to_have_text(
        "“square” looked at the bottom center of scene.png."
    )
    page.keyboard.press("Escape")
    expect(page.locator("figure.lit")).to_have_count(0)


def test_the_picture_of_the_word_is_the_one_that_lights_up(
    page: Page, page_server: PageServer
) -> None:
    page_server.engine.attention = [attention(images=2)]
    drop(page, payload("one.png"))
    lit(page)
    word(page, "red")
    figures = page.locator("#thread figure.lit")
    expect(figures).to_have_count(1)
    expect(figures.locator("img")).to_have_attribute("alt", "scene.png")


def test_a_picture_that_is_out_of_sight_is_shown_beside_its_word(
    page: Page, page_server: PageServer
) -> None:
    page_server.engine.texts = ["line\n\n" * 60 + TEXT]
    lit(page)
    word(page, "red")
    expect(page.locator("#lens")).to_be_visible()
    x, y = heat_maximum(page.locator("#lens figure"))
    assert (int(4 * y), int(4 * x)) == PLACES["red"]
    page.get_by_label("Your question").hover()
    expect(page.locator("#lens")).to_be_hidden()


def test_words_light_up_after_a_reload_and_not_after_their_chat_is_deleted(
    page: Page,
) -> None:
    lit(page)
    page.reload()
    word(page, "red")
    expect(page.locator("#thread figure.lit")).to_have_count(1)
    assert page.evaluate(COUNT, "attention") == 1
    page.get_by_role("button", name="Delete “What is it?”").click()
    expect(page.locator("#chats li")).to_have_count(0)
    wait_until(page, f"({COUNT})('attention').then(count => count === 0)")


def test_maps_are_asked_for_with_pictures_and_if_the_user_wants_them(
    page: Page, page_server: PageServer
) -> None:
    page_server.engine.attention = []
    ask(page, "No picture")
    complete(page)
    drop(page, payload())
    ask(page, "A picture")
    complete(page, 2)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Show where each word looked").uncheck()
    page.get_by_role("button", name="Done").click()
    ask(page, "Unwanted")
    complete(page, 3)
    asked = [each.attention is not None for each in page_server.engine.requests]
    assert asked == [False, True, False]
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_label("Show where each word looked")).to_be_checked()


def test_an_answer_outlives_its_maps(page: Page, page_server: PageServer) -> None:
    page_server.engine.attention = [attention(error="the worker is gone")]
    drop(page, payload())
    ask(page, "What is it?")
    complete(page)
    expect(page.locator(".assistant > .maps")).to_have_text(
        "Where its words looked isn't known: the worker is gone"
    )
    expect(answers(page)).to_contain_text("A red square")


def test_a_server_without_maps_says_how_to_get_them(
    open_page: OpenPage, start_server: Callable[..., PageServer]
) -> None:
    server = start_server()
    page = open_page(server.url)
    page.get_by_role("button", name="Settings").click()
    box = page.get_by_label("Show where each word looked")
    expect(box).to_be_disabled()
    expect(page.get_by_role("dialog")).to_contain_text("only mllama serve --attention")
    page.keyboard.press("Escape")
    drop(page, payload())
    ask(page, "What is it?")
    complete(page)
    assert server.engine.requests[0].attention is None
