"""The page in several tabs of one browser."""

from __future__ import annotations

import pytest

from .browser import COUNT, Page, expect, wait_until
from .page_server import PageServer
from .test_chat import answers, ask, begin_long_answer, complete

DEAF = """window.BroadcastChannel = class extends EventTarget {
    postMessage() {}
};"""
"""Keeps a tab from hearing of others, as one that the browser has put to sleep."""


@pytest.fixture
def other(page: Page, page_server: PageServer) -> Page:
    """Another tab, in which the first tab's chat is open."""
    ask(page, "One?")
    complete(page)
    tab = page.context.new_page()
    tab.goto(page_server.url)
    complete(tab)
    return tab


def test_turns_of_one_tab_are_shown_in_the_other(
    page: Page, page_server: PageServer, other: Page
) -> None:
    page_server.engine.texts = ["Second"]
    ask(other, "Two?")
    complete(other, 2)
    complete(page, 2)
    expect(answers(page).last).to_have_text("Second")
    page_server.engine.texts = ["Third"]
    ask(page, "Three?")
    complete(page, 3)
    complete(other, 3)
    expect(answers(other).last).to_have_text("Third")
    other.get_by_role("button", name="New chat").click()
    ask(other, "Another?")
    expect(page.locator("#chats li")).to_have_count(2)
    expect(answers(page)).to_have_count(3)


def test_a_tab_that_is_behind_keeps_the_turns_of_the_other(
    page: Page, page_server: PageServer
) -> None:
    page.context.add_init_script(DEAF)
    page.reload()
    ask(page, "One?")
    complete(page)
    other = page.context.new_page()
    other.goto(page_server.url)
    complete(other)
    page_server.engine.texts = ["Of the other"]
    ask(other, "Two?")
    complete(other, 2)
    page_server.engine.texts = ["Of this"]
    ask(page, "Three?")
    complete(page, 2)
    expect(answers(page).last).to_have_text("Of this")
    for tab in (other, page):
        tab.reload()
        expect(answers(tab).last).to_have_text("Of this")
    question = page.locator(".user").last
    question.get_by_role("button", name="Earlier version").click()
    expect(answers(page).last).to_have_text("Of the other")


def test_a_chat_that_one_tab_deletes_is_gone_from_the_other(
    page: Page, page_server: PageServer, other: Page
) -> None:
    begin_long_answer(page, page_server)
    expect(answers(page).last).to_contain_text("word word")
    other.on("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Delete “One?”").click()
    expect(page.locator("#chats li")).to_have_count(0)
    page_server.wait_until_idle()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    wait_until(page, f"({COUNT})('conversations').then(count => count === 0)")


def test_an_answer_without_text_is_gone_from_both(
    page: Page, page_server: PageServer, other: Page
) -> None:
    page_server.stop()
    ask(other, "Two?")
    expect(other.get_by_role("alert")).to_contain_text("connection")
    expect(answers(other)).to_have_count(1)
    expect(page.locator(".user > .text")).to_have_count(2)
    expect(answers(page)).to_have_count(1)
    page_server.start()
    page_server.engine.texts = ["Third"]
    ask(page, "Three?")
    complete(page, 2)
    complete(other, 2)
